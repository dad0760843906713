from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from mimicdet.build import build_model, load_model
from mimicdet.config import SETTINGS_OF, InferenceSettings, MimicDetSettings
from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.models.alignment import AlignedConv
from mimicdet.models.anchors import square_anchors
from mimicdet.models.backbone import FrozenNorm
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.pyramid import FinerLevel
from mimicdet.teachers.t_head import THead
from mimicdet.weights.folder import save_model
from tests.fakes.tiny import enliven

PAPER = MimicDetSettings.Model(backbone="resnet50", weights="random", offsets="learned", head_init="gaussian")
"""The paper's detector; where weights start does not matter here."""


def build(settings: MimicDetSettings.Model, classes: int = 80, **options: Any) -> MimicDet:
    with torch.device("meta"):
        return build_model(settings, classes, pretrained=False, **options)


def parameters(module: nn.Module) -> int:
    """Learned numbers: parameters, and the scale and shift of frozen batch norm, which timm keeps as buffers.

    Running means and variances are not counted, as nobody counts them.
    """
    affine = [layer.weight.numel() + layer.bias.numel() for layer in module.modules() if isinstance(layer, FrozenNorm)]
    return sum(parameter.numel() for parameter in module.parameters()) + sum(affine)


class MultiplyAdds:
    """Counts those of convolutions and linear layers while it is entered; bilinear sampling is not counted."""

    def __init__(self, module: nn.Module) -> None:
        self.count: Counter[str] = Counter()
        self.names = {layer: name for name, layer in module.named_modules()}
        self.stack = ExitStack()

    def add(self, layer: nn.Module, outputs: int) -> None:
        """``outputs``: numbers that the layer gave, each a sum over one filter of its weight."""
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        self.count[self.names[layer].removeprefix("trunk.").split(".")[0]] += outputs * layer.weight[0].numel()

    def __enter__(self) -> MultiplyAdds:
        dense, at = AlignedConv.dense, AlignedConv.at

        def counted_dense(layer: AlignedConv, feature: Tensor, offsets: Tensor | None) -> Tensor:
            # torch.autocast does not know the meta device, not even to be off there
            with patch.object(torch, "autocast", lambda *_, **__: nullcontext()):
                out = dense(layer, feature, offsets)
            if offsets is not None:  # without offsets it calls itself as a plain convolution, counted below
                self.add(layer, out.numel())
            return out

        def counted_at(layer: AlignedConv, taps: Tensor) -> Tensor:
            out = at(layer, taps)
            self.add(layer, out.numel())
            return out

        self.stack.enter_context(patch.object(AlignedConv, "dense", counted_dense))
        self.stack.enter_context(patch.object(AlignedConv, "at", counted_at))
        for layer in self.names:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                handle = layer.register_forward_hook(lambda layer, _, out: self.add(layer, out.numel()))
                self.stack.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()


HEIGHT, WIDTH = 800, 1280


# The design's table


def test_parameters_at_inference_are_34_95_million_and_the_t_heads_29_2() -> None:
    model = build(PAPER)
    assert parameters(model) == pytest.approx(34.95e6, abs=0.1e6)
    t_head = THead(in_channels=256, num_classes=80)
    assert parameters(t_head) == pytest.approx(29.2e6, abs=0.1e6)
    with_free_norms = build(PAPER.model_copy(update={"freeze_batch_norm": False}))
    assert parameters(with_free_norms) == parameters(model)


def test_multiply_adds_of_a_dense_s_head_are_144_8_giga() -> None:
    model = build(PAPER)
    with MultiplyAdds(model) as counted:
        output = model(torch.empty(1, 3, HEIGHT, WIDTH, device="meta"), dense=True, top=None)
    assert output.scores.shape[1] == 21_330
    assert counted.count.total() == pytest.approx(144.8e9, rel=0.01)
    assert set(counted.count) == {"backbone", "pyramid", "refinement", "s_head"}


def test_multiply_adds_with_the_s_head_at_1000_positions_are_115_6_giga() -> None:
    model = build(PAPER)
    with MultiplyAdds(model) as counted:
        refined = model.refine(torch.empty(1, 3, HEIGHT, WIDTH, device="meta"))
    # Which positions are read depends on values, so this part runs for real, on maps of zeros
    shapes = [(level.shape[2], level.shape[3]) for level in refined.pyramid.levels]
    places = square_anchors((3, 4, 5, 6, 7), side_in_cells=4)(shapes)
    real = MimicDetSettings.Model(**PAPER.model_dump() | {"backbone": "test_resnet", "frozen_stages": 0})
    head = build_model(real, 80).s_head
    levels = [torch.zeros(1, 256, h, w) for h, w in shapes]
    # The share of P3 that a full image gives; 1000 of P3 and 1000 of others bracket the figure too
    totals = []
    everywhere = torch.randperm(21_330, generator=torch.Generator().manual_seed(0))[:1000]
    for rows in (everywhere, torch.arange(1000), torch.arange(20_000, 21_000)):
        with torch.no_grad(), MultiplyAdds(head) as in_head:
            head.at(levels, torch.zeros(1, 21_330, 4), places, rows)
        totals.append(counted.count.total() + in_head.count.total())
    for total in totals:
        assert total == pytest.approx(115.6e9, rel=0.01)


def test_the_finest_level_for_a_teacher_costs_the_detector_nothing() -> None:
    """Section 3.1: P2 is not generated at inference; the detector has the same parameters with and without."""
    alone, taught = build(PAPER), build(PAPER, finest_level=2)
    assert alone.state_dict().keys() == taught.state_dict().keys()
    assert parameters(alone) == parameters(taught)
    assert 2 not in alone.trunk.backbone.channels
    assert 2 in taught.trunk.backbone.channels
    assert not [m for m in taught.modules() if isinstance(m, FinerLevel | THead)]
    with MultiplyAdds(alone) as one:
        alone(torch.empty(1, 3, 64, 64, device="meta"), dense=True)
    with MultiplyAdds(taught) as other:
        taught(torch.empty(1, 3, 64, 64, device="meta"), dense=True)
    assert one.count == other.count


@pytest.mark.parametrize("name", ["resnet101", "resnext101_64x4d"])
def test_the_papers_other_backbones_build(name: str) -> None:
    model = build(PAPER.model_copy(update={"backbone": name}))
    refined = model.refine(torch.empty(1, 3, 64, 64, device="meta"))
    assert refined.deltas.shape == (1, 8 * 8 + 4 * 4 + 2 * 2 + 1 + 1, 4)
    assert parameters(model) > 50e6


# Every setting


TINY = MimicDetSettings.Model(
    backbone="test_resnet",
    weights="random",
    pyramid_channels=16,
    head_channels=24,
    head_features=20,
    kernel_size=5,
    finest_kernel_size=3,
    offsets="learned",
    frozen_stages=0,
    freeze_batch_norm=False,
)


def tiny(**changes: Any) -> MimicDet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model(TINY.model_copy(update=changes), 3)


def test_widths() -> None:
    model = tiny()
    assert model.num_classes == 3
    assert model.trunk.pyramid.channels == model.refinement.conv.out_channels == model.s_head.align.in_channels == 16
    assert model.s_head.align.out_channels == 24
    assert model.s_head.class_features.out_features == model.s_head.box_features.out_features == 20
    assert model.s_head.classifier.out_features == 4
    assert model.s_head.align.kernel_size == (5, 5)
    assert model.s_head.align_finest.kernel_size == (3, 3)


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"backbone": "test_convnext"}, lambda m: hasattr(m.trunk.backbone.network, "stages_3")),
        ({"levels": (2, 3, 4, 5)}, lambda m: m.trunk.level_numbers == (2, 3, 4, 5) and 2 in m.trunk.backbone.channels),
        ({"levels": (4, 5, 6)}, lambda m: m.trunk.level_numbers == (4, 5, 6) and 3 not in m.trunk.backbone.channels),
        ({"pyramid_channels": 8}, lambda m: m.trunk.channels == m.s_head.align.in_channels == 8),
        (
            {"pyramid_norm": "layer"},
            lambda m: sum(isinstance(x, LayerNorm2d) for x in m.trunk.pyramid.modules()) == 9,
        ),
        ({"alignment": "deformable"}, lambda m: m.s_head.offset_conv.out_channels == 50),
        ({"alignment": "conv"}, lambda m: not hasattr(m.s_head, "guided_offsets")),
        ({"offsets": "box_grid"}, lambda m: not list(m.s_head.guided_offsets.parameters())),
        ({"offsets": "box_grid+learned"}, lambda m: m.s_head.guided_offsets.source == "box_grid+learned"),
        ({"offset_grad": 0.1}, lambda m: m.s_head.offset_grad == 0.1),
        ({"kernel_size": 7}, lambda m: m.s_head.align.kernel_size == (7, 7)),
        ({"finest_kernel_size": 5}, lambda m: m.s_head.align_finest is m.s_head.align),
        ({"head_channels": 8}, lambda m: m.s_head.align.out_channels == 8),
        ({"head_features": 8}, lambda m: m.s_head.classifier.in_features == 8),
        ({"head_paths": "single"}, lambda m: m.s_head.box_features is m.s_head.class_features),
        ({"head_init": "gaussian"}, lambda m: float(m.s_head.class_features.weight.detach().std()) < 0.02),
        ({"head_init": "he"}, lambda m: float(m.s_head.class_features.weight.detach().std()) > 0.2),
        ({"frozen_stages": 2}, lambda m: not m.trunk.backbone.network.layer1[0].conv1.weight.requires_grad),
        ({"freeze_batch_norm": True}, lambda m: not [x for x in m.modules() if isinstance(x, nn.BatchNorm2d)]),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_settings_reach_the_modules(changes: dict[str, Any], check: Any) -> None:
    model = tiny(**changes)
    assert check(model)
    out = model.eval()(torch.rand(1, 3, 64, 96))
    assert out.scores.isfinite().all()


@pytest.mark.parametrize("family", ["retinanet", "fcos", "atss", "gfl"])
def test_initialisation_of_the_other_families(family: str) -> None:
    """Of the branches; what ends in scores and boxes keeps its own, small one."""
    own = {"head_groups": 0, "pyramid_channels": 32}
    for init, deviation in (("gaussian", 0.01), ("he", (2 / (9 * 32)) ** 0.5)):
        torch.manual_seed(0)
        model = build_model(
            SETTINGS_OF[family].Model(backbone="test_resnet", weights="random", head_init=init, **own), 3
        )
        branches = model.head.branches()
        convs = [m for part in branches[:2] for m in part.modules() if isinstance(m, nn.Conv2d)]
        assert len(convs) == 8
        for conv in convs:
            assert float(conv.weight.detach().std()) == pytest.approx(deviation, rel=0.05)
            assert conv.bias is None or not conv.bias.any()
        scores = branches.finish_class(torch.rand(1, 32, 4, 4)).sigmoid()
        assert 0.005 < float(scores.detach().min()) < float(scores.detach().max()) < 0.02


def test_weights_are_read_only_where_asked_for(tmp_path: Path) -> None:
    missing = TINY.model_copy(update={"weights": str(tmp_path / "none.pth")})
    with pytest.raises(UserError, match="does not exist"):
        build_model(missing, 3)
    build_model(missing, 3, pretrained=False)
    source = tiny().trunk.backbone.network.state_dict()
    source = {key: value + 1 if value.is_floating_point() else value for key, value in source.items()}
    torch.save(source, tmp_path / "some.pth")
    found = tiny(weights=str(tmp_path / "some.pth")).trunk.backbone.network.state_dict()
    assert all(torch.equal(value, source[key]) for key, value in found.items() if value.is_floating_point())


# Model folders


CATEGORIES = (Category(7, "cat"), Category(2, "dog"), Category(91, "newt"))
INFERENCE = InferenceSettings(shorter_side=64, longer_side=96, positions=50, nms_iou=0.5)


def save(folder: Path, settings: MimicDetSettings.Model = TINY, *, seed: int = 0) -> MimicDet:
    torch.manual_seed(seed)
    model = build_model(settings, 3)
    enliven(model)
    save_model(
        folder,
        model,
        model_settings=settings.model_dump(mode="json"),
        inference=INFERENCE.model_dump(mode="json"),
        categories=CATEGORIES,
        extra={"step": 3},
    )
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"finest_kernel_size": 5},
        {"finest_kernel_size": 5, "offsets": "box_grid+learned"},
        {"finest_kernel_size": 5, "alignment": "deformable"},
        {"head_paths": "single"},
        {"head_paths": "single", "finest_kernel_size": 5},
        {"freeze_batch_norm": True, "frozen_stages": 2},
        {"levels": (2, 3, 4), "alignment": "conv"},
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_a_saved_model_comes_back_with_equal_outputs(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Also where two names stand for one module: equal kernels, one path."""
    settings = TINY.model_copy(update=changes)
    model = save(tmp_path / "model", settings).eval()
    loaded = load_model(tmp_path / "model")
    assert loaded.settings == settings
    assert loaded.inference == INFERENCE
    assert loaded.categories == CATEGORIES
    assert not loaded.model.training
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    images = torch.rand(2, 3, 64, 96)
    model = model.to(memory_format=torch.channels_last)  # as it is loaded; another order of sums rounds otherwise
    for a, b in zip(loaded.model(images), model(images), strict=True):
        assert torch.equal(a, b)
    assert (loaded.model.s_head.align is loaded.model.s_head.align_finest) == (
        settings.kernel_size == settings.finest_kernel_size
    )


def test_the_pretrained_weights_are_not_needed_any_more(tmp_path: Path) -> None:
    save(tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    content = json.loads(file.read_text())
    content["model"]["weights"] = "/gone/with/the/machine.pth"
    file.write_text(json.dumps(content))
    assert load_model(tmp_path / "model").settings.weights == "/gone/with/the/machine.pth"


@pytest.mark.parametrize(
    ("section", "key", "value", "found"),
    [
        ("model", "no_such_setting", 3, "'no_such_setting' is not understood"),
        ("model", "kernel_size", 4, "'kernel_size' is not understood"),
        ("model", "levels", [3, 5], "model.json: model.levels must be consecutive pyramid levels"),
        ("model", "levels", [], "model.json: model.levels must be consecutive pyramid levels"),
        ("model", "backbone", "resnet_gone", "does not know the network 'resnet_gone'"),
        ("model", "head_features", 8, "does not fit its model.json"),
        ("inference", "positions", "many", "'positions' is not understood"),
        (None, "model", 5, "is broken"),
        (None, "inference", [1], "is broken"),
        (None, "categories", [{"id": 1, "name": "only one"}], "does not fit its model.json"),
        (None, "family", "retinanet", "family 'retinanet'"),
    ],
)
def test_a_description_that_does_not_fit_gets_one_sentence(
    tmp_path: Path, section: str | None, key: str, value: object, found: str
) -> None:
    save(tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    content = json.loads(file.read_text())
    (content if section is None else content[section])[key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "model")
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)
