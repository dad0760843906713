from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mimicdet.config import SETTINGS_OF, Settings, fields_of, settings_from
from mimicdet.errors import UserError
from mimicdet.settings_file import FIELDS, Layer, resolve


@pytest.mark.parametrize("section", ["model", "teacher"])
@pytest.mark.parametrize("levels", [(), (1, 2, 3), (6, 7), (3, 5), (4, 3), (3, 3)])
def test_levels_are_a_run_that_the_backbone_reaches(section: str, levels: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match=rf"{section}\.levels must be consecutive pyramid levels"):
        settings_from({section: {"levels": levels}, "task": "detect"})


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"teacher": {"levels": (2, 3, 4)}}, "must name one level for each of model.levels"),
        ({"teacher": {"levels": (4, 5, 6, 7, 8)}}, "must start at the level of model.levels"),
        ({"model": {"levels": (5, 6, 7)}, "teacher": {"levels": (3, 4, 5)}}, "or one below"),
        ({"teacher": {"variant": "light"}}, "'light' needs model.head_paths 'single'"),
        ({"model": {"head_paths": "single"}}, "'dual' needs model.head_paths 'dual'"),
        (
            {"model": {"head_paths": "single"}, "teacher": {"variant": "heavy"}, "mimic": {"classification": "both"}},
            "counts the one feature of model.head_paths 'single' twice",
        ),
    ],
    ids=str,
)
def test_sections_that_contradict_each_other(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        settings_from(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"teacher": {"levels": (3, 4, 5, 6, 7)}},
        {"model": {"levels": (5, 6, 7)}, "teacher": {"levels": (4, 5, 6)}},
        {"model": {"levels": (2, 3, 4, 5)}, "teacher": {"levels": (2, 3, 4, 5)}},
        {"model": {"head_paths": "single"}, "teacher": {"variant": "light"}},
        {"model": {"levels": (3, 4)}, "task": "detect"},
        {"model": {"head_paths": "single"}, "task": "detect"},
    ],
    ids=str,
)
def test_sections_that_fit(changes: dict[str, Any]) -> None:
    settings = settings_from(changes)
    assert type(settings).model_validate_json(settings.model_dump_json()) == settings


# ------------------------------------------------------------------------------- what each family reads


ANY_FAMILY = " or ".join(", ".join(map(repr, SETTINGS_OF)).rsplit(", ", 1))


def given(**values: Any) -> Settings:
    """As by ``--section.key`` on a command line, with a double underline for the dot."""
    return resolve([Layer("here", {name.replace("__", "."): value for name, value in values.items()})])


@pytest.mark.parametrize("family", SETTINGS_OF)
def test_what_a_family_does_not_read_cannot_be_given_to_it(family: str) -> None:
    """Even with the value that is its default elsewhere."""
    own = fields_of(SETTINGS_OF[family])
    foreign = {name: info.default for name, info in FIELDS.items() if name not in own}
    assert len(foreign) > 5
    for name, value in foreign.items():
        with pytest.raises(UserError) as error:
            resolve([Layer("in my.yaml", {name: value}), Layer("here", {"model.family": family})])
        assert str(error.value) == (
            f"{name} has no meaning for model.family '{family}'; leave it out, or take a preset of that family "
            "(mimicdet presets) (in my.yaml)"
        )
        section, _, key = name.partition(".")
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            settings_from({"model": {"family": family}} | {section: {"family": family, key: value}})


@pytest.mark.parametrize("family", SETTINGS_OF)
def test_a_family_alone_is_a_run_of_it(family: str) -> None:
    settings = given(model__family=family)
    assert settings == SETTINGS_OF[family]() == settings_from({"model": {"family": family}})
    assert settings.model.family == family
    assert settings.task == ("mimic" if family == "mimicdet" else "detect")


def test_the_last_layer_that_names_a_family_decides() -> None:
    layers = [Layer("one", {"model.family": "gfl"}), Layer("two", {"one_stage.center_radius": 2.0})]
    assert resolve([*layers, Layer("three", {"model.family": "fcos"})]).one_stage.center_radius == 2  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"center_radius has no meaning for model\.family 'gfl'.*two"):
        resolve(layers)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"task": "mimic", "model__family": "fcos"},
            "task 'mimic' trains MimicDet's two heads, not model.family 'fcos'; use task 'detect' (here)",
        ),
        (
            {"task": "distill", "model__family": "faster_rcnn"},
            "task 'distill' teaches one-stage detectors, not model.family 'faster_rcnn'; use task 'detect' (here)",
        ),
        (
            {"model__family": "yolo"},
            f"setting 'model.family' here is \"yolo\"; it should be {ANY_FAMILY}",
        ),
        (
            {"model__family": ["gfl"]},
            f"setting 'model.family' here is [\"gfl\"]; it should be {ANY_FAMILY}",
        ),
        (
            {"model__family": "gfl", "task": "swim"},
            "setting 'task' here is \"swim\"; it should be 'detect' or 'distill'",
        ),
        (
            {"distill__rank": 2.0},
            "distill.rank has no meaning for task 'mimic'; use task 'distill' (here)",
        ),
        (
            {"task": "distill"},
            "distill.teachers are for task 'distill', which needs one at least; give both or none (here)",
        ),
        (
            {"model__family": "gfl", "distill__teachers": ["x"]},
            "distill.teachers are for task 'distill', which needs one at least; give both or none (here)",
        ),
        (
            {"model__family": "atss", "model__pyramid_channels": 20},
            "model.head_groups 32 must divide model.pyramid_channels 20 (here)",
        ),
        (
            {"model__family": "fcos", "model__pyramid_channels": 32},
            "model.head_groups 32 must be less than model.pyramid_channels 32 (here)",
        ),
        (
            {"model__alignment": "conv", "model__offset_grad": 0.5},
            "model.offset_grad 0.5 is for the offsets of model.alignment 'guided'; leave it out (here)",
        ),
        *(
            (
                {**own, "train__eval_teacher": True},
                "train.eval_teacher needs a T-head, and task 'detect' has none; leave it out (here)",
            )
            for own in ({"task": "detect"}, {"model__family": "fcos"}, {"model__family": "faster_rcnn"})
        ),
        (
            {"model__family": "retinanet", "one_stage__negative_iou": 0.7},
            "one_stage.negative_iou 0.7 must not be above one_stage.positive_iou 0.5 (here)",
        ),
    ],
)
def test_what_does_not_go_together_is_told_in_one_sentence(values: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        given(**values)
    assert str(error.value) == told


def test_settings_that_are_no_more_are_unknown() -> None:
    with pytest.raises(UserError, match=r"unknown setting 'distill\.cross_depth' here; did you mean 'distill\.cross'"):
        given(distill__cross_depth=2)
