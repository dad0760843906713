"""Every preset is a complete, valid experiment; the paper's say to the letter what the paper says."""

from __future__ import annotations

import shlex

import pytest
import timm

from mimicdet.config import Settings
from mimicdet.settings_file import FIELDS, load_settings, preset_file, preset_header, preset_names, read_layer

NAMES = preset_names()
PAPER = [name for name in NAMES if name.startswith("paper_")]


def test_there_are_these() -> None:
    assert NAMES == ("demo", "paper_r101_2x", "paper_r50_1x", "paper_r50_2x", "paper_x101_64x4d_sota", "small")


@pytest.mark.parametrize("name", NAMES)
def test_states_every_setting_in_order(name: str) -> None:
    """Complete, so that a changed default never changes a published experiment."""
    assert list(read_layer(preset_file(name)).values) == list(FIELDS)
    load_settings(preset=name)


@pytest.mark.parametrize("name", NAMES)
def test_header_says_what_to_expect(name: str) -> None:
    lines = preset_header(name)
    assert lines[0]
    assert not lines[1]
    text = "\n".join(lines)
    for heading in ("Command:\n", "\nCost: ", "\nExpected: "):
        assert heading in text


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
    assert s.mimic.model_dump() == {"classification": "logits", "negatives": True, "detach_teacher": True}
    assert set(s.loss.model_dump().values()) == {1.0}
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
        "model.backbone", "optim.milestones", "train.epochs", "data.shorter_side", "data.shorter_side_sampling",
    }  # fmt: skip
