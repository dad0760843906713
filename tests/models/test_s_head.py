from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from mimicdet.models.alignment import box_grid_offsets
from mimicdet.models.anchors import square_anchors
from mimicdet.models.detector import Places
from mimicdet.models.s_head import HeadOutput, SHead
from mimicdet.ops.boxes import decode_deltas
from tests.fakes.tiny import enliven

SHAPES = ((5, 7), (3, 4), (2, 2), (1, 1))
"""Rows and columns of the levels: odd sizes, and one where every tap but the centre is outside."""
POSITIONS = sum(h * w for h, w in SHAPES)
CHANNELS = 4

VARIANTS: list[dict[str, Any]] = [
    {"alignment": "guided", "offsets": source, "offset_grad": gradient}
    for source, gradient in itertools.product(("learned", "box_grid", "box_grid+learned"), (0.0, 0.1, 1.0))
] + [{"alignment": "deformable"}, {"alignment": "conv"}]
KERNELS = ((3, 1), (3, 3), (5, 3))


def make_head(**options: Any) -> SHead:
    defaults: dict[str, Any] = {"channels": 5, "features": 6, "kernel_size": 3, "finest_kernel_size": 1}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        head = SHead(in_channels=CHANNELS, num_classes=3, **defaults | options)
        enliven(head)
    return head.double()


def make_inputs(images: int = 2, *, spread: float = 0.6) -> tuple[list[Tensor], Tensor, Places]:
    generator = torch.Generator().manual_seed(1)
    levels = [
        torch.randn(images, CHANNELS, h, w, dtype=torch.float64, generator=generator).requires_grad_()
        for h, w in SHAPES
    ]
    deltas = spread * torch.randn(images, POSITIONS, 4, dtype=torch.float64, generator=generator)
    return levels, deltas.requires_grad_(), square_anchors((3, 4, 5, 6), side_in_cells=4)(SHAPES)


def chosen_rows(images: int = 2) -> Tensor:
    """Other positions in each image, in no order: all borders of the finest level, every level, repeats."""
    h, w = SHAPES[0]
    corners = torch.tensor([0, w - 1, (h - 1) * w, h * w - 1, w, 2 * w - 1])
    others = torch.randperm(POSITIONS, generator=torch.Generator().manual_seed(2))
    first = torch.cat([others[:12], corners, torch.tensor([POSITIONS - 1, 3, 3])])
    second = torch.cat([others[20:36], corners[:2], torch.tensor([h * w, h * w + 1, POSITIONS - 1])])
    rows = torch.cat([first, POSITIONS + second]) if images == 2 else first
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(4))]


def gradients_of(outputs: HeadOutput, wanted: list[Tensor]) -> tuple[Tensor | None, ...]:
    generator = torch.Generator().manual_seed(5)
    total = torch.zeros((), dtype=torch.float64)
    for field in outputs:
        total = total + (field * torch.randn(field.shape, dtype=field.dtype, generator=generator)).sum()
    return torch.autograd.grad(total, wanted, allow_unused=True)


@pytest.fixture(params=["grouped", "fixed"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As the S-head runs eagerly, and as torch.compile and torch.export see it."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: request.param == "fixed")
    return request.param


@pytest.mark.parametrize("paths", ["dual", "single"])
@pytest.mark.parametrize("kernels", KERNELS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(str(value) for value in v.values()))
def test_at_equals_dense_at_those_positions_in_values_and_gradients(
    variant: dict[str, Any], kernels: tuple[int, int], paths: str, form: str
) -> None:
    head = make_head(**variant, kernel_size=kernels[0], finest_kernel_size=kernels[1], paths=paths)
    levels, deltas, places = make_inputs()
    rows = chosen_rows()
    dense = head.dense(levels, deltas)
    assert dense.logits.shape == (2, POSITIONS, 4)
    assert dense.deltas.shape == (2, POSITIONS, 4)
    assert dense.class_feature.shape == dense.box_feature.shape == (2, POSITIONS, 6)
    expected = HeadOutput(*(field.flatten(0, 1)[rows] for field in dense))
    found = head.at(levels, deltas, places, rows)
    for name, a, b in zip(HeadOutput._fields, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")

    names = [f"level {i}" for i in range(len(levels))] + ["deltas"] + [n for n, _ in head.named_parameters()]
    inputs = [*levels, deltas, *head.parameters()]
    pairs = zip(names, gradients_of(found, inputs), gradients_of(expected, inputs), strict=True)
    for name, a, b in pairs:
        if name == "deltas" and not variant.get("offset_grad"):
            assert a is None or not a.any()
            assert b is None or not b.any()
            continue
        assert a is not None, name
        assert b is not None, name
        # On the one-cell level every tap may lie outside; all else must take part for this test to mean anything
        assert b.any() or name == "level 3", name
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("alignment", ["guided", "deformable", "conv"])
def test_at_every_position_is_dense(alignment: str) -> None:
    head = make_head(alignment=alignment)
    levels, deltas, places = make_inputs()
    found = head.at(levels, deltas, places, torch.arange(2 * POSITIONS))
    for a, b in zip(found, head.dense(levels, deltas), strict=True):
        torch.testing.assert_close(a, b.flatten(0, 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("rows", [[], [0, 3], [POSITIONS - 1]], ids=["none", "finest only", "coarsest only"])
@pytest.mark.parametrize("variant", VARIANTS[6:], ids=str)
def test_every_parameter_takes_part_whatever_is_read(rows: list[int], variant: dict[str, Any], form: str) -> None:
    """Several processes with other positions must touch the same parameters."""
    head = make_head(**variant)
    levels, deltas, places = make_inputs()
    out = head.at(levels, deltas, places, torch.tensor(rows, dtype=torch.int64))
    assert out.logits.shape == (len(rows), 4)
    sum((field.sum() for field in out), start=torch.zeros(())).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
    assert all(level.grad is not None for level in levels)


# Against a literal reading of section 3.3


def literal_dense(head: SHead, levels: list[Tensor], deltas: Tensor, source: str) -> tuple[Tensor, Tensor]:
    """Figure 2 with 1x1 convolutions on whole maps: logits and deltas (B, A, ...)."""
    logits, boxes = [], []
    start = 0
    for i, feature in enumerate(levels):
        b, _, h, w = feature.shape
        align = head.align_finest if i == 0 else head.align
        k = align.kernel_size[0]
        guide = deltas[:, start : start + h * w].detach()
        start += h * w
        offsets = torch.zeros(b, 2 * k * k, h, w, dtype=feature.dtype)
        if "box_grid" in source:
            offsets = offsets + box_grid_offsets(guide, k).transpose(1, 2).reshape(b, -1, h, w)
        if "learned" in source:
            micro = head.guided_offsets
            hidden = guide.transpose(1, 2).reshape(b, 4, h, w)
            for layer in (micro.hidden[0], micro.hidden[2]):
                hidden = F.relu(F.conv2d(hidden, layer.weight[..., None, None], layer.bias))
            last = micro.last_finest if i == 0 else micro.last
            offsets = offsets + F.conv2d(hidden, last.weight[..., None, None], last.bias)
        aligned = F.relu(deform_conv2d(feature, offsets, align.weight, align.bias, padding=k // 2))

        def conv1x1(x: Tensor, layer: nn.Linear) -> Tensor:
            return F.conv2d(x, layer.weight[..., None, None], layer.bias)

        class_feature = F.relu(conv1x1(aligned, head.class_features))
        box_feature = F.relu(conv1x1(aligned, head.box_features))
        logits.append(conv1x1(class_feature, head.classifier).flatten(2).transpose(1, 2))
        boxes.append(conv1x1(box_feature, head.regressor).flatten(2).transpose(1, 2))
    return torch.cat(logits, 1), torch.cat(boxes, 1)


@pytest.mark.parametrize("source", ["learned", "box_grid", "box_grid+learned"])
@pytest.mark.parametrize("paths", ["dual", "single"])
def test_dense_is_the_network_of_figure_2(source: str, paths: str) -> None:
    head = make_head(offsets=source, kernel_size=5, finest_kernel_size=3, paths=paths)
    levels, deltas, _ = make_inputs()
    found = head.dense(levels, deltas)
    logits, boxes = literal_dense(head, levels, deltas, source)
    torch.testing.assert_close(found.logits, logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.deltas, boxes, rtol=0, atol=1e-10)


def test_a_plain_alignment_layer_ignores_the_deltas() -> None:
    head = make_head(alignment="conv")
    levels, deltas, _ = make_inputs()
    for i, field in enumerate(head.dense(levels, deltas)):
        assert torch.equal(field, head.dense(levels, 2 * deltas)[i])
    level = head.dense(levels, deltas)
    aligned = F.relu(F.conv2d(levels[1], head.align.weight, head.align.bias, padding=1))
    feature = F.relu(head.class_features(aligned.flatten(2).transpose(1, 2)))
    start = SHAPES[0][0] * SHAPES[0][1]
    torch.testing.assert_close(level.class_feature[:, start : start + 12], feature, rtol=0, atol=1e-10)


def test_a_deformable_layer_takes_its_offsets_from_the_features() -> None:
    head = make_head(alignment="deformable")
    levels, deltas, _ = make_inputs()
    found = head.dense(levels, deltas)
    assert torch.equal(found.logits, head.dense(levels, 2 * deltas).logits)
    offsets = F.conv2d(levels[1], head.offset_conv.weight, head.offset_conv.bias, padding=1)
    aligned = F.relu(deform_conv2d(levels[1], offsets, head.align.weight, head.align.bias, padding=1))
    feature = F.relu(head.class_features(aligned.flatten(2).transpose(1, 2)))
    start = SHAPES[0][0] * SHAPES[0][1]
    torch.testing.assert_close(found.class_feature[:, start : start + 12], feature, rtol=0, atol=1e-10)


# Settings


@pytest.mark.parametrize("source", ["learned", "box_grid", "box_grid+learned"])
def test_offset_grad_is_the_share_of_the_gradient_that_reaches_the_deltas(source: str) -> None:
    found = {}
    for share in (0.0, 0.1, 1.0):
        head = make_head(offsets=source, offset_grad=share)
        levels, deltas, places = make_inputs()
        out = head.at(levels, deltas, places, chosen_rows())
        (found[share],) = gradients_of(out, [deltas])
        assert torch.equal(out.logits, make_head(offsets=source).at(levels, deltas, places, chosen_rows()).logits)
    assert found[0.0] is None
    assert found[1.0].any()
    torch.testing.assert_close(found[0.1], 0.1 * found[1.0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alignment", ["guided", "deformable", "conv"])
def test_the_finest_level_has_its_own_layers_only_where_its_kernel_differs(alignment: str) -> None:
    own, shared = (make_head(alignment=alignment, kernel_size=3, finest_kernel_size=f) for f in (1, 3))
    assert own.align_finest is not own.align
    assert own.align_finest.kernel_size == (1, 1)
    assert own.align.kernel_size == (3, 3)
    assert shared.align_finest is shared.align
    names = {name for name, _ in shared.named_parameters()}
    assert not [name for name in names if "finest" in name]
    assert {name.replace("_finest", "") for name, _ in own.named_parameters()} == names


def test_single_path_has_one_feature_for_both_predictors() -> None:
    head = make_head(paths="single")
    assert head.box_features is head.class_features
    levels, deltas, places = make_inputs()
    out = head.at(levels, deltas, places, chosen_rows())
    assert torch.equal(out.class_feature, out.box_feature)
    dual = make_head(paths="dual").at(levels, deltas, places, chosen_rows())
    assert not torch.equal(dual.class_feature, dual.box_feature)


@pytest.mark.parametrize("init", ["gaussian", "he"])
def test_initialisation(init: str) -> None:
    """Section 4.1: sigma 0.01 for everything in the S-head; ``he`` for the alignment and feature layers (ours)."""
    head = SHead(in_channels=32, num_classes=80, channels=64, features=96, init=init)  # type: ignore[arg-type]
    he = {"align": 32 * 25, "align_finest": 32 * 9, "class_features": 64, "box_features": 64}
    layers = {name: m for name, m in head.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert set(he) < set(layers)
    assert {"classifier", "regressor", "guided_offsets.last"} < set(layers)
    for name, layer in layers.items():
        expected = (2 / he[name]) ** 0.5 if init == "he" and name in he else 0.01
        assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.15), name
        assert not layer.bias.any(), name


# What it says about itself


def test_tap_points_and_statistics() -> None:
    """Mean offset length, and the share of taps in the adjusted box, tap by tap."""
    head = make_head(offsets="box_grid+learned", kernel_size=3)
    deltas = 0.5 * torch.randn(8, 4, dtype=torch.float64)
    for finest, k in ((False, 3), (True, 1)):
        points = head.tap_points(deltas, finest=finest)
        offsets = head.guided_offsets(deltas, finest=finest, kernel_size=k)
        length, inside = head.tap_statistics(deltas, finest=finest)
        for p in range(8):
            x1, y1, x2, y2 = decode_deltas(
                deltas[p], torch.tensor([-2.0, -2, 2, 2], dtype=torch.float64), std=(1, 1, 1, 1)
            )
            lengths, hits = [], []
            for t in range(k * k):
                oy, ox = offsets[p, 2 * t], offsets[p, 2 * t + 1]
                y, x = t // k - k // 2 + oy, t % k - k // 2 + ox
                torch.testing.assert_close(points[p, t], torch.stack([y, x]))
                lengths.append(float((oy**2 + ox**2) ** 0.5))
                hits.append(bool(x1 <= x <= x2 and y1 <= y <= y2))
            assert float(length[p]) == pytest.approx(sum(lengths) / len(lengths))
            assert float(inside[p]) == pytest.approx(sum(hits) / len(hits))


def test_a_box_grid_lies_wholly_inside_the_box() -> None:
    head = make_head(offsets="box_grid", kernel_size=5, finest_kernel_size=3)
    for finest in (True, False):
        _, inside = head.tap_statistics(torch.randn(20, 4, dtype=torch.float64), finest=finest)
        assert torch.equal(inside, torch.ones(20, dtype=torch.float64))


def test_at_runs_under_bfloat16_autocast_near_its_float32_values() -> None:
    head = make_head(kernel_size=3).float()
    levels, deltas, places = make_inputs()
    levels, deltas = [level.detach().float() for level in levels], deltas.detach().float()
    expected = head.at(levels, deltas, places, chosen_rows())
    with torch.autocast("cpu", torch.bfloat16):
        found = head.at(levels, deltas, places, chosen_rows())
        dense = head.dense(levels, deltas)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.1 * float(b.abs().max()))
    for a, b in zip(dense, expected, strict=True):
        torch.testing.assert_close(a.flatten(0, 1)[chosen_rows()], b, rtol=0.1, atol=0.1 * float(b.abs().max()))
