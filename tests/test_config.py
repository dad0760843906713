from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mimicdet.config import Settings


@pytest.mark.parametrize("section", ["model", "teacher"])
@pytest.mark.parametrize("levels", [(), (1, 2, 3), (6, 7), (3, 5), (4, 3), (3, 3)])
def test_levels_are_a_run_that_the_backbone_reaches(section: str, levels: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match=rf"{section}\.levels must be consecutive pyramid levels"):
        Settings.model_validate({section: {"levels": levels}, "task": "detect"})


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
        Settings.model_validate(changes)


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
    settings = Settings.model_validate(changes)
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
