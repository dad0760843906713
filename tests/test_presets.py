"""Every preset is a complete, valid experiment; the paper's say to the letter what the paper says."""

from __future__ import annotations

import shlex

import pytest
import timm

from mimicdet.config import Settings, fields_of
from mimicdet.settings_file import load_settings, preset_file, preset_header, preset_names, read_layer

NAMES = preset_names()
ONE_STAGE = ("retinanet", "fcos", "atss", "gfl")
RIVALS = (*ONE_STAGE, "faster_rcnn")
PAPER = [name for name in NAMES if name.startswith("paper_")]


def test_there_are_these() -> None:
    rivals = [f"{name}_r50_{schedule}" for name in RIVALS for schedule in ("1x", "2x")]
    assert set(NAMES) == {
        "demo",
        "paper_r101_2x",
        "paper_r50_1x",
        "paper_r50_2x",
        "paper_x101_64x4d_sota",
        "small",
        *rivals,
        *(f"small_{name}" for name in RIVALS),
    }


@pytest.mark.parametrize("name", NAMES)
def test_states_every_setting_in_order(name: str) -> None:
    """Complete, so that a changed default never changes a published experiment: all that its detector reads."""
    read = fields_of(type(load_settings(preset=name)))
    assert list(read_layer(preset_file(name)).values) == [key for key in read if not key.startswith("distill.")]


@pytest.mark.parametrize("name", NAMES)
def test_header_says_what_to_expect(name: str) -> None:
    lines = preset_header(name)
    assert lines[0]
    assert not lines[1]
    text = "\n".join(lines)
    for heading in ("Command:\n", "\nCost: ", "\nExpected: "):
        assert heading in text


@pytest.mark.parametrize("name", [name for name in NAMES if "_r50_" in name and name not in PAPER])
def test_rivals_follow_their_papers(name: str) -> None:
    """What is common to them, and what tells them apart, from their papers and MMDetection's configurations."""
    s = load_settings(preset=name)
    family, _, schedule = name.partition("_r50_")
    assert (s.task, s.model.family, s.model.backbone) == ("detect", family, "resnet50.tv_in1k")
    assert (s.train.epochs, s.optim.milestones) == {"1x": (12, (8, 11)), "2x": (24, (16, 22))}[schedule]
    lr = 0.01 if family in ONE_STAGE else 0.02
    assert (s.optim.lr, s.optim.lr_batch, s.optim.momentum, s.optim.weight_decay) == (lr, 16, 0.9, 1e-4)
    assert (s.data.shorter_side, s.data.longer_side, s.data.horizontal_flip) == ((800,), 1333, 0.5)
    assert (s.inference.score_threshold, s.inference.max_detections) == (0.05, 100)
    assert s.inference.nms_iou == (0.6 if family in ("atss", "gfl") else 0.5)
    if family == "faster_rcnn":
        assert (s.model.levels, s.model.head_features) == ((2, 3, 4, 5, 6), 1024)
        return
    assert s.model.head_init == "gaussian"
    assert s.model.head_groups == (0 if family == "retinanet" else 32)
    assert s.model.pyramid_top == ("c5" if family == "retinanet" else "p5")
    one = s.one_stage.model_dump()
    assert one.pop("boxes") == (2.0 if family in ("atss", "gfl") else 1.0)
    published = {"focal_alpha": 0.25, "focal_gamma": 2.0, "positive_iou": 0.5, "negative_iou": 0.4} | {
        "center_radius": 1.5,
        "candidates": 9,
        "classification": 1.0,
        "quality": 1.0,
        "distribution": 0.25,
    }
    assert one == {key: published[key] for key in one}
    own = {"retinanet": {"positive_iou", "negative_iou"}, "fcos": {"center_radius", "quality"}}
    own |= {"atss": {"candidates", "quality"}, "gfl": {"candidates", "distribution"}}
    assert own[family] == one.keys() - {"focal_alpha", "focal_gamma", "classification"}


@pytest.mark.parametrize("name", [f"small_{name}" for name in RIVALS])
def test_small_rivals_share_all_that_they_can_with_small(name: str) -> None:
    ours, theirs = load_settings(preset="small"), load_settings(preset=name)
    assert theirs.data == ours.data
    assert theirs.optim == ours.optim
    assert theirs.train == ours.train
    own = {"family", "pyramid_top"} | ({"levels"} if theirs.model.family == "faster_rcnn" else set())
    shared = type(ours.model).model_fields.keys() & type(theirs.model).model_fields.keys() - own
    assert {"backbone", "weights", "pyramid_channels"} <= shared
    for key in shared:
        assert getattr(theirs.model, key) == getattr(ours.model, key)


@pytest.mark.parametrize("name", PAPER)
def test_header_command_is_one_that_the_command_line_takes(name: str) -> None:
    from mimicdet.cli import parse

    text = "\n".join(preset_header(name))
    command = text.partition("Command:\n")[2].partition("\nThe data:")[0].replace("\\\n", " ")
    words = shlex.split(command)
    options = parse("train", words[words.index("train") + 1 :])
    assert options.settings == load_settings(preset=name)
    assert "--nproc-per-node 8" in command
    assert "--nnodes 2" in command


@pytest.mark.parametrize("name", NAMES)
def test_backbone_exists_in_timm_with_imagenet_weights(name: str) -> None:
    backbone = load_settings(preset=name).model.backbone
    assert backbone in timm.list_pretrained(backbone.partition(".")[0] + ".*")


PAPER_BACKBONES = {
    "paper_r50_1x": "resnet50.tv_in1k",
    "paper_r50_2x": "resnet50.tv_in1k",
    "paper_r101_2x": "resnet101.tv_in1k",
    "paper_x101_64x4d_sota": "resnext101_64x4d.tv_in1k",
}
SCHEDULES = {
    "paper_r50_1x": (13, (8, 11)),
    "paper_r50_2x": (24, (16, 22)),
    "paper_r101_2x": (24, (16, 22)),
    "paper_x101_64x4d_sota": (36, (24, 33)),  # 1.5 x 2x
}


@pytest.mark.parametrize("name", PAPER)
def test_paper_presets_follow_section_4(name: str) -> None:
    """The paper's sections 3.1 to 4.2, typed in again from the text rather than from the presets."""
    s = load_settings(preset=name)
    assert s.task == "mimic"
    assert s.model.backbone == PAPER_BACKBONES[name]
    assert s.model.weights == "imagenet"
    assert (s.model.frozen_stages, s.model.freeze_batch_norm) == (2, True)
    assert (s.model.levels, s.teacher.levels) == ((3, 4, 5, 6, 7), (2, 3, 4, 5, 6))
    assert (s.model.pyramid_channels, s.model.head_channels, s.teacher.conv_channels) == (256, 256, 256)
    assert s.model.pyramid_norm == "none"
    assert (s.model.head_paths, s.model.head_features, s.model.head_init) == ("dual", 1024, "gaussian")
    assert (s.model.alignment, s.model.offsets, s.model.offset_grad) == ("guided", "learned", 0)
    assert (s.model.kernel_size, s.model.finest_kernel_size) == (5, 3)
    assert s.teacher.variant == "dual"
    assert (s.assign.center_fraction, s.assign.ensure_match) == (0.3, False)
    assert (s.assign.proposal_nms, s.assign.proposals, s.assign.positive_iou) == (0.8, 2000, 0.6)
    assert (s.assign.t_samples, s.assign.t_positive_fraction) == (128, 0.25)
    assert (s.assign.s_class_samples, s.assign.s_box_samples, s.assign.s_box_normalizer) == (128, 64, "samples")
    assert {key: getattr(s.mimic, key) for key in ("classification", "negatives", "detach_teacher")} == {
        "classification": "logits",
        "negatives": True,
        "detach_teacher": True,
    }
    assert s.mimic.weighting == "none"
    ours = ("mimic_rank", "mimic_soft_labels")
    assert {name for name, value in s.loss.model_dump().items() if value == 0} == set(ours)
    assert {value for name, value in s.loss.model_dump().items() if name not in ours} == {1.0}
    assert (s.data.horizontal_flip, s.data.vertical_flip, s.data.color_jitter) == (0.5, 0, 0)
    assert s.data.scale_jitter == (1, 1)
    assert s.data.longer_side == 1333
    if name.endswith("sota"):
        assert (s.data.shorter_side, s.data.shorter_side_sampling) == ((640, 800), "range")
    else:
        assert s.data.shorter_side == (800,)
    assert (s.optim.optimizer, s.optim.momentum, s.optim.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (s.optim.lr, s.optim.lr_batch, s.optim.backbone_lr_factor) == (0.04, 32, 1)
    assert (s.optim.schedule, s.optim.gamma) == ("step", 0.1)
    assert 500 <= s.optim.warmup_steps <= 1000
    assert (s.optim.clip_grad_norm, s.optim.accumulate, s.optim.ema_decay) == (0, 1, 0)
    assert (s.train.epochs, s.optim.milestones) == SCHEDULES[name]
    assert (s.train.batch_size, s.train.precision) == (2, "no")
    i = s.inference
    assert (i.shorter_side, i.longer_side, i.positions) == (800, 1333, 1000)
    assert (i.score_threshold, i.nms_iou, i.max_detections) == (0.005, 0.6, 100)


@pytest.mark.parametrize("name", ["paper_r50_2x", "paper_r101_2x", "paper_x101_64x4d_sota"])
def test_paper_presets_differ_only_where_the_experiments_do(name: str) -> None:
    def flat(settings: Settings) -> dict[str, object]:
        content = settings.model_dump()
        return {
            f"{a}.{b}": v for a, section in content.items() if isinstance(section, dict) for b, v in section.items()
        }

    base, other = flat(load_settings(preset="paper_r50_1x")), flat(load_settings(preset=name))
    differing = {key for key in base if base[key] != other[key]}
    assert differing <= {
        "model.backbone",
        "optim.milestones",
        "train.epochs",
        "data.shorter_side",
        "data.shorter_side_sampling",
    }
