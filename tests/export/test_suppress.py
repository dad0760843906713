from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import box_iou

from mimicdet.export.exported_file import load
from mimicdet.export.network import onnx_translations, suppress_as_one_operator, suppress_by_torchvision


def random_boxes(seed: int, b: int, r: int, k: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = 40 * torch.rand(b, r, 2, generator=generator)
    boxes = torch.cat([corner, corner + 25 * torch.rand(b, r, 2, generator=generator) + 1], dim=-1)
    return boxes, torch.rand(b, r, k, generator=generator)


def literal(boxes: Tensor, scores: Tensor, nms_iou: float, score_threshold: float) -> Tensor:
    left = torch.zeros_like(scores)
    for i in range(len(boxes)):
        overlap = box_iou(boxes[i].double(), boxes[i].double())
        for k in range(scores.shape[2]):
            kept: list[int] = []
            for j in scores[i, :, k].argsort(descending=True).tolist():
                if scores[i, j, k] > score_threshold and all(overlap[j, o] <= nms_iou for o in kept):
                    kept.append(j)
                    left[i, j, k] = scores[i, j, k]
    return left


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 30), st.integers(1, 3), st.floats(0, 0.9))
def test_suppression_in_one_call_is_that_of_each_image_and_class(
    seed: int, b: int, r: int, k: int, nms_iou: float
) -> None:
    boxes, scores = random_boxes(seed, b, r, k)
    for threshold in (0.0, 0.4, 0.99):
        found = suppress_by_torchvision(boxes, scores, nms_iou, threshold)
        assert torch.equal(found, literal(boxes, scores, nms_iou, threshold))


def test_many_classes_do_not_touch_each_other() -> None:
    """Their boxes lie 1,200 x 1,000 pixels apart, where float32 has no quarter pixels left."""
    boxes, scores = random_boxes(0, 2, 12, 1200)
    boxes = boxes + 950
    assert torch.equal(suppress_by_torchvision(boxes, scores, 0.5, 0.1), literal(boxes, scores, 0.5, 0.1))


class Alone(nn.Module):
    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        return suppress_as_one_operator(images, sizes, 0.4, 0.3)


class Inlined(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        return suppress_by_torchvision(boxes, scores, 0.4, 0.3)


def test_traced_it_holds_for_nothing_at_all_and_for_a_single_box() -> None:
    rows, batch = torch.export.Dim("rows"), torch.export.Dim("batch")
    shapes = {"boxes": {0: batch, 1: rows}, "scores": {0: batch, 1: rows}}
    program = torch.export.export(Inlined(), random_boxes(0, 2, 9, 3), dynamic_shapes=shapes).module()
    for seen in (0, 1, 2, 60):
        boxes, scores = random_boxes(3, 3, 20, 3)
        scores.view(-1)[: scores.numel() - seen] = 0.1
        assert torch.equal(program(boxes, scores), literal(boxes, scores, 0.4, 0.3))


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "suppress.onnx"
    rows, batch = torch.export.Dim("rows"), torch.export.Dim("batch")
    shapes = {"images": {0: batch, 1: rows}, "sizes": {0: batch, 1: rows}}
    program = torch.export.export(Alone(), random_boxes(0, 2, 9, 3), dynamic_shapes=shapes)
    made = torch.onnx.export(
        program, dynamo=True, opset_version=20, custom_translation_table=onnx_translations(), verbose=False
    )
    assert made is not None
    made.save(file)
    return file


@pytest.mark.parametrize(("b", "r"), [(1, 1), (2, 9), (3, 120)])
def test_its_form_in_onnx_is_the_same(onnx_file: Path, b: int, r: int) -> None:
    boxes, scores = random_boxes(b, b, r, 3)
    (found,) = load(onnx_file, "onnx")(boxes.numpy(), scores.numpy())
    np.testing.assert_array_equal(found, literal(boxes, scores, 0.4, 0.3).numpy())
    assert 0 < (found > 0).sum() <= found.size
