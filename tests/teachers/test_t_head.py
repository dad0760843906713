"""The T-head: what it pools, from where, how large it is, and which layers feed which path."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from mimicdet.models.s_head import HeadOutput
from mimicdet.teachers.t_head import THead, Variant, _pool_by_gather, _pool_by_torchvision

VARIANTS: tuple[Variant, ...] = get_args(Variant)
STRIDES = [4, 8, 16, 32, 64]
"""P2..P6: the staggered pyramid."""
K, D, C = 3, 16, 6


def make_head(variant: Variant = "dual") -> THead:
    torch.manual_seed(0)
    return THead(in_channels=C, num_classes=K, features=D, conv_channels=8, variant=variant).double()


def make_levels(height: int = 160, width: int = 224, images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(images, C, -(-height // s), -(-width // s), generator=generator, dtype=torch.float64)
        for s in STRIDES
    ]


def make_boxes(n: int = 20, seed: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (some reach outside), images and levels in no order."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator, dtype=torch.float64) * 200 - 30
    side = torch.rand(n, 2, generator=generator, dtype=torch.float64) * 90 + 1
    image, level = (torch.randint(0, most, (n,), generator=generator) for most in (2, 5))
    return torch.cat([corner, corner + side], dim=1), image, level


@pytest.mark.parametrize("pool", [THead.pool, _pool_by_gather, _pool_by_torchvision])
def test_pooling_is_roi_align_box_by_box(pool: Callable[..., Tensor]):
    """On maps that go on as zeros below and to the right, as they do where a batch pads."""
    levels, (boxes, image, level) = make_levels(), make_boxes()
    pooled = pool(levels, STRIDES, boxes, image, level)
    for i in range(len(boxes)):
        feature = nn.functional.pad(levels[level[i]][image[i]][None], (0, 60, 0, 60))
        scale = 1 / STRIDES[level[i]]
        expected = roi_align(feature, [boxes[i : i + 1]], (7, 7), scale, sampling_ratio=2, aligned=True)[0]
        torch.testing.assert_close(pooled[i], expected, rtol=0, atol=1e-12)


def test_pooling_does_not_depend_on_the_padding_a_batch_brings():
    levels, boxes = make_levels(), make_boxes(60)
    wider = [nn.functional.pad(l, (0, 3, 0, 5)) for l in levels]
    expected = THead.pool(levels, STRIDES, *boxes)
    torch.testing.assert_close(THead.pool(wider, STRIDES, *boxes), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("level", range(5))
def test_a_bin_holds_what_lies_at_its_place_in_pixels(level: int):
    """On a map that holds each cell's own centre in pixels, a bin's value is its centre: no shift by half a cell."""
    s = STRIDES[level]
    y, x = (torch.arange(8.0) + 0.5) * s, (torch.arange(11.0) + 0.5) * s
    levels = [torch.full((1, 2, 8, 11), -1e6, dtype=torch.float64) for _ in STRIDES]
    levels[level] = torch.stack(torch.meshgrid(y, x, indexing="ij"))[None].double()
    box = torch.tensor([[2.3, 1.7, 7.9, 6.1]], dtype=torch.float64) * s
    pooled = THead.pool(levels, STRIDES, box, torch.zeros(1).long(), torch.tensor([level]))[0]
    bins = (torch.arange(7, dtype=torch.float64) + 0.5) / 7
    rows, columns = (1.7 + bins * (6.1 - 1.7)) * s, (2.3 + bins * (7.9 - 2.3)) * s
    torch.testing.assert_close(pooled[0], rows[:, None].expand(7, 7), rtol=0, atol=1e-9)
    torch.testing.assert_close(pooled[1], columns.expand(7, 7), rtol=0, atol=1e-9)


def test_two_samples_a_bin_and_axis():
    """On |x|-shaped ramps the mean of samples depends on how many there are: literal, one bin row."""
    kink = torch.tensor([0.0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8], dtype=torch.float64).expand(1, 1, 12, 12)
    box = torch.tensor([[1.0, 1.0, 10.0, 10.0]], dtype=torch.float64)
    pooled = THead.pool([kink], [1], box, torch.zeros(1).long(), torch.zeros(1).long())[0, 0, 3]
    at = [1 + (i + f) * 9 / 7 for i in range(7) for f in (0.25, 0.75)]
    values = [max(x - 0.5 - 3, 0) for x in at]
    assert pooled.tolist() == pytest.approx(
        [(a + b) / 2 for a, b in zip(values[::2], values[1::2], strict=True)], abs=1e-12
    )


def test_a_marker_is_seen_by_the_boxes_of_its_level_and_image_alone():
    boxes, image, level = make_boxes(40)
    boxes = boxes.clamp(min=20, max=100)
    boxes[:, 2:] = boxes[:, :2] + 30
    for marked_level in range(5):
        for marked_image in range(2):
            levels = [torch.zeros_like(l) for l in make_levels()]
            levels[marked_level][marked_image] = 1
            seen = THead.pool(levels, STRIDES, boxes, image, level).flatten(1)
            own = (level == marked_level) & (image == marked_image)
            torch.testing.assert_close(seen, own.double()[:, None].expand_as(seen))


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_and_order(variant: Variant):
    head, levels, (boxes, image, level) = make_head(variant), make_levels(), make_boxes()
    output = head(levels, STRIDES, boxes, image, level)
    assert [tuple(field.shape) for field in output] == [(20, K + 1), (20, 4), (20, D), (20, D)]
    assert (output.class_feature >= 0).all(), "features come after ReLU"
    assert (output.box_feature >= 0).all()
    torch.testing.assert_close(output.logits, head.classifier(output.class_feature))
    torch.testing.assert_close(output.deltas, head.regressor(output.box_feature))
    assert (variant != "dual") == torch.equal(output.class_feature, output.box_feature)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = head(levels, STRIDES, boxes[order], image[order], level[order])
    for field, expected in zip(shuffled, output, strict=True):
        torch.testing.assert_close(field, expected[order], rtol=1e-10, atol=1e-10)
    alone = head(levels, STRIDES, boxes[3:4], image[3:4], level[3:4])
    for field, expected in zip(alone, output, strict=True):
        torch.testing.assert_close(field, expected[3:4], rtol=1e-10, atol=1e-10)


def literal_head(head: THead, pooled: Tensor) -> HeadOutput:
    """Section 3.3 and Table 3's text, layer by layer."""
    weights = dict(head.named_parameters())

    def fc(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def four_convs(x: Tensor) -> Tensor:
        for i in (0, 2, 4, 6):
            x = nn.functional.conv2d(x, weights[f"convs.{i}.weight"], weights[f"convs.{i}.bias"], padding=1).relu()
        return x

    def two_layers(x: Tensor) -> Tensor:
        return fc("class_layers.2", fc("class_layers.0", x.reshape(len(x), -1)).clamp(min=0)).clamp(min=0)

    if head.variant == "dual":
        class_feature = two_layers(pooled)
        box_feature = fc("box_layer.0", four_convs(pooled).reshape(len(pooled), -1)).clamp(min=0)
    else:
        class_feature = box_feature = two_layers(pooled if head.variant == "light" else four_convs(pooled))
    return HeadOutput(fc("classifier", class_feature), fc("regressor", box_feature), class_feature, box_feature)


@pytest.mark.parametrize("variant", VARIANTS)
def test_layers_are_the_papers(variant: Variant):
    head, levels, boxes = make_head(variant), make_levels(), make_boxes()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.2)  # biases too
    expected = literal_head(head, THead.pool(levels, STRIDES, *boxes))
    for field, reference in zip(head(levels, STRIDES, *boxes), expected, strict=True):
        torch.testing.assert_close(field, reference, rtol=1e-10, atol=1e-10)


def count(variant: Variant) -> int:
    with torch.device("meta"):
        head = THead(in_channels=256, num_classes=80, features=1024, conv_channels=256, variant=variant)
    return sum(p.numel() for p in head.parameters())


def test_parameters_of_the_design():
    flat, convs = 256 * 49, 4 * (256 * 256 * 9 + 256)
    predictors = 1025 * 81 + 1025 * 4
    two_layers = (flat + 1) * 1024 + 1025 * 1024
    assert count("dual") == two_layers + convs + (flat + 1) * 1024 + predictors
    assert abs(count("dual") - 29.2e6) < 0.05e6
    assert count("light") == two_layers + predictors
    assert count("heavy") == two_layers + convs + predictors


@pytest.mark.parametrize("variant", VARIANTS)
def test_he_initialisation(variant: Variant):
    torch.manual_seed(0)
    head = THead(in_channels=16, num_classes=30, features=128, conv_channels=24, variant=variant)
    for name, layer in head.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            fan_in = layer.weight[0].numel()
            tolerance = 4 / math.sqrt(2 * layer.weight.numel())
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=tolerance), name
            assert layer.bias is not None
            assert layer.bias.eq(0).all()


def test_gradients_reach_the_pyramid_and_keep_to_their_path():
    head, levels, boxes = make_head("dual"), [l.requires_grad_() for l in make_levels()], make_boxes()

    def touched(output: Tensor) -> set[str]:
        names, parameters = zip(*head.named_parameters(), strict=True)
        gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
        return {n.split(".")[0] for n, g in zip(names, gradients, strict=True) if g is not None and g.abs().sum() > 0}

    output = head(levels, STRIDES, *boxes)
    output.logits.square().sum().backward(retain_graph=True)
    assert all(l.grad is not None and l.grad.abs().sum() > 0 for l in levels)
    output = head([l.detach() for l in levels], STRIDES, *boxes)
    assert touched(output.logits) == {"class_layers", "classifier"}
    output = head([l.detach() for l in levels], STRIDES, *boxes)
    assert touched(output.deltas) == {"convs", "box_layer", "regressor"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_boxes_touch_every_parameter_all_the_same(variant: Variant):
    """A process without sampled boxes must take part in the gradient's all-reduce."""
    head, levels = make_head(variant), [l.requires_grad_() for l in make_levels()]
    none = torch.zeros(0, dtype=torch.int64)
    output = head(levels, STRIDES, torch.zeros(0, 4, dtype=torch.float64), none, none)
    assert [tuple(field.shape) for field in output] == [(0, K + 1), (0, 4), (0, D), (0, D)]
    (output.logits.sum() + output.deltas.sum()).backward()
    for tensor in (*head.parameters(), *levels):
        assert tensor.grad is not None
        assert tensor.grad.eq(0).all()


def test_boxes_that_are_not_finite_spoil_their_own_row_only():
    """torchvision's CPU kernel reads far outside the map there: without care, the process ends at once."""
    head, levels = make_head(), make_levels()
    boxes, image, level = make_boxes(6)
    expected = head(levels, STRIDES, boxes, image, level)
    broken = boxes.clone()
    broken[1, 0], broken[3], broken[4, 2] = math.nan, math.nan, math.inf
    output = head(levels, STRIDES, broken, image, level)
    good = torch.tensor([True, False, True, False, False, True])
    for field, reference in zip(output, expected, strict=True):
        torch.testing.assert_close(field[good], reference[good])
    assert output.logits[~good].isnan().all()
    assert output.deltas[~good].isnan().all()


def test_boxes_far_outside_or_without_area_are_finite():
    head, levels = make_head(), make_levels()
    boxes = torch.tensor([[-1e9, -1e9, 1e9, 1e9], [1e12, 1e12, 2e12, 2e12], [5.0, 5, 5, 5], [50, 50, 40, 40]]).double()
    output = head(levels, STRIDES, boxes, torch.tensor([0, 1, 0, 1]), torch.tensor([0, 4, 2, 3]))
    assert all(field.isfinite().all() for field in output)


def test_float32_out_of_autocast():
    head, levels, (boxes, image, level) = make_head().float(), [l.float() for l in make_levels()], make_boxes(4)
    with torch.autocast("cpu", torch.bfloat16):
        output = head([l.bfloat16() for l in levels], STRIDES, boxes.float(), image, level)
    assert {field.dtype for field in output} == {torch.float32}
    for field, reference in zip(output, head(levels, STRIDES, boxes.float(), image, level), strict=True):
        assert (field - reference).abs().max() < 0.05 * reference.abs().max()
