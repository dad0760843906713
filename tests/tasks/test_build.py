from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mimicdet.config import LossSettings, settings_from
from mimicdet.tasks import build_task
from mimicdet.tasks.detect import DetectTask
from mimicdet.tasks.mimic import MimicTask
from tests.fakes.tiny import tiny_batch, tiny_settings


def build(**sections: Any) -> Any:
    settings = tiny_settings(**{"model": {"backbone": "test_resnet"} | sections.pop("model", {})}, **sections)
    return build_task(settings, class_names=["a", "b", "c"])


def mimic(**sections: Any) -> MimicTask:
    task = build(**sections)
    assert isinstance(task, MimicTask)
    return task


def test_settings_are_handed_on() -> None:
    task = mimic(
        assign={"t_samples": 7},
        mimic={"classification": "feature"},
        loss={"t_boxes": 0.5},
        teacher={"conv_channels": 10},
        model={"head_features": 20, "pyramid_channels": 6},
    )
    assert task.assign.t_samples == 7
    assert task.mimic.classification == "feature"
    assert task.loss.t_boxes == 0.5
    assert [layer.out_channels for layer in task.t_head.convs if isinstance(layer, nn.Conv2d)] == [10] * 4
    assert task.t_head.classifier.in_features == 20
    assert task.t_head.classifier.out_features == 4
    assert task.finer_level is not None
    assert task.finer_level.output.out_channels == 6
    alone = build(task="detect", assign={"s_box_samples": 3}, loss={"s_boxes": 0.25})
    assert isinstance(alone, DetectTask)
    assert alone.assign.s_box_samples == 3
    assert alone.loss.s_boxes == 0.25


@pytest.mark.parametrize(
    ("model", "teacher", "level"),
    [
        ((3, 4, 5, 6, 7), (2, 3, 4, 5, 6), 2),
        ((3, 4, 5, 6, 7), (3, 4, 5, 6, 7), None),
        ((4, 5, 6), (3, 4, 5), 3),
        ((2, 3, 4, 5), (2, 3, 4, 5), None),
    ],
)
def test_the_finer_level_is_built_where_the_teacher_pools_from_it(
    model: tuple[int, ...], teacher: tuple[int, ...], level: int | None
) -> None:
    task = mimic(model={"levels": model}, teacher={"levels": teacher})
    assert (task.finer_level.level if task.finer_level is not None else None) == level
    images = torch.rand(1, 3, 64, 64)
    refined = task.detector.refine(images)
    assert len(refined.pyramid.levels) == len(model)
    if level is not None:
        assert task.finer_level is not None
        assert task.finer_level(refined.pyramid).shape[2:] == (64 // 2**level, 64 // 2**level)


def test_the_finer_level_is_normalised_as_the_pyramid_is() -> None:
    plain, normalised = (mimic(model={"pyramid_norm": norm}).finer_level for norm in ("none", "layer"))
    assert plain is not None
    assert normalised is not None
    assert not [m for m in plain.modules() if isinstance(m, nn.LayerNorm)]
    assert len([m for m in normalised.modules() if isinstance(m, nn.LayerNorm)]) == 2


@pytest.mark.parametrize("variant", ["dual", "light", "heavy"])
def test_variants_of_the_t_head(variant: str) -> None:
    task = mimic(teacher={"variant": variant}, model={"head_paths": "dual" if variant == "dual" else "single"})
    assert task.t_head.variant == variant
    assert bool(len(task.t_head.convs)) == (variant != "light")


def test_a_task_without_a_teacher_has_no_trace_of_one() -> None:
    """And what ships is the same: the detector has the same entries either way."""
    alone, taught = build(task="detect"), mimic()
    assert set(alone.state_dict()) == {f"detector.{key}" for key in taught.detector.state_dict()}
    assert 2 not in alone.detector.trunk.backbone.channels
    extra = {key.split(".")[0] for key in taught.state_dict()} - {"detector"}
    assert extra == {"t_head", "finer_level"}
    assert not [key for key in taught.detector.state_dict() if "t_head" in key or "finer" in key]


def test_defaults_build_the_papers_teacher() -> None:
    settings = settings_from({"model": {"weights": "random"}})
    with torch.device("meta"):
        task = build_task(settings, class_names=list(map(str, range(80))))
    assert isinstance(task, MimicTask)
    assert sum(p.numel() for p in task.t_head.parameters()) == pytest.approx(29.2e6, abs=0.1e6)


def test_a_separate_backbone_is_the_t_heads_alone() -> None:
    """Its own levels, as many as the detector's; the detector is what it is without a teacher."""
    task = mimic(teacher={"backbone": "separate"}, model={"pyramid_norm": "layer"})
    assert task.finer_level is None
    assert task.own_trunk is not None
    assert 2 not in task.detector.trunk.backbone.channels
    images = torch.rand(1, 3, 64, 96)
    levels = task.own_trunk(images).levels
    assert [tuple(level.shape[1:]) for level in levels] == [(8, 64 // 2**l, 96 // 2**l) for l in (2, 3, 4, 5)] + [
        (8, 1, 2)
    ]
    assert any(isinstance(m, nn.LayerNorm) for m in task.own_trunk.pyramid.modules())
    extra = {key.split(".")[0] for key in task.state_dict()} - {"detector"}
    assert extra == {"t_head", "own_trunk"}
    assert set(task.detector.state_dict()) == set(mimic(model={"pyramid_norm": "layer"}).detector.state_dict())


@pytest.mark.parametrize("levels", [(2, 3, 4, 5, 6), (3, 4, 5, 6, 7)])
def test_with_a_separate_backbone_the_t_head_learns_from_its_own_losses_alone(levels: tuple[int, ...]) -> None:
    batch = tiny_batch()
    parts = dict.fromkeys(LossSettings.model_fields, 0.0)
    for wanted, expected in (
        ({"t_classification": 1.0, "t_boxes": 1.0}, {"t_head", "own_trunk"}),
        ({"s_classification": 1.0, "mimic_boxes": 1.0, "mimic_classification": 1.0}, {"detector"}),
    ):
        torch.manual_seed(0)
        task = mimic(teacher={"backbone": "separate", "levels": levels}, loss=parts | wanted)
        task(batch)["loss"].backward()
        reached = {
            name.split(".")[0]
            for name, parameter in task.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }
        assert reached == expected


def test_a_separate_t_head_pools_from_its_own_levels() -> None:
    """Equal weights in both backbones and pyramids without the staggering: sharing or not gives the same T-head."""
    torch.manual_seed(0)
    same = (3, 4, 5, 6, 7)
    task = mimic(teacher={"backbone": "separate", "levels": same}).eval()
    shared = mimic(teacher={"levels": same}).eval()
    shared.detector.load_state_dict(task.detector.state_dict())
    shared.t_head.load_state_dict(task.t_head.state_dict())
    assert task.own_trunk is not None
    task.own_trunk.backbone.load_state_dict(task.detector.trunk.backbone.state_dict())
    task.own_trunk.pyramid.load_state_dict(task.detector.trunk.pyramid.state_dict())
    batch = tiny_batch()
    expected, found = shared(batch), task(batch)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4, equal_nan=True)
