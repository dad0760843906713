from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from mimicdet.config import InferenceSettings
from mimicdet.inference.decode import Detections, decode, detections_of_image
from mimicdet.models.detector import Predictions
from mimicdet.models.mimicdet import Refined

INF = float("inf")


class Output(NamedTuple):
    """What MimicDet's parts say of every position."""

    objectness: Tensor  # (B, A); -inf on padding
    logits: Tensor  # (B, A, K+1)
    boxes: Tensor  # (B, A, 4) adjusted and moved

    def predictions(self, top: int | None = 1000) -> Predictions:
        valid = ~self.objectness.isneginf()
        refined = Refined(None, None, valid, self.objectness, torch.zeros_like(self.boxes), self.boxes)  # type: ignore[arg-type]
        positions = refined.best(top)
        index = positions[..., None]
        logits = self.logits.gather(1, index.expand(-1, -1, self.logits.shape[2]))
        found = refined.predictions(positions, logits, torch.zeros(*positions.shape, 4, dtype=torch.float64))
        return found._replace(boxes=self.boxes.gather(1, index.expand(-1, -1, 4)))


def detections(output: Output, sizes: Tensor, *, top: int = 1000, **options: Any) -> list[Detections]:
    return decode(output.predictions(top), sizes, InferenceSettings(**options))


def random_output(seed: int, *, images: int = 2, positions: int = 60, classes: int = 3) -> Output:
    """Boxes in clusters, so that there is much to suppress; some without area, some beyond the image."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    centers = 100 * rand(images, 6, 2)
    which = torch.randint(0, 6, (images, positions), generator=generator)
    center = centers.gather(1, which[..., None].expand(-1, -1, 2)) + 6 * rand(images, positions, 2)
    side = 20 + 12 * rand(images, positions, 2)
    boxes = torch.cat([center - side / 2, center + side / 2], dim=-1)
    boxes[:, ::13, 2] = boxes[:, ::13, 0]  # no width
    boxes[:, 1::17, :] += 500  # outside: without area once clipped
    return Output(
        objectness=torch.randn(images, positions, generator=generator, dtype=torch.float64),
        logits=3 * torch.randn(images, positions, classes + 1, generator=generator, dtype=torch.float64),
        boxes=boxes,
    )


SIZES = torch.tensor([[90, 110], [70, 64]])


def literal_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def literal_decode(
    output: Output, sizes: Tensor, *, score_threshold: float, nms_iou: float, max_detections: int, top: int
) -> list[list[tuple[float, int, list[float]]]]:
    """Section 4.2, position by position and class by class."""
    found = []
    for i, (height, width) in enumerate(sizes.tolist()):
        rows = []
        for r in range(output.objectness.shape[1]):
            rows.append((float(output.objectness[i, r]), r))
        rows = [(o, r) for o, r in sorted(rows, reverse=True)[:top] if o > -INF]
        kept: list[tuple[float, int, list[float]]] = []
        for label in range(output.logits.shape[2] - 1):
            candidates = []
            for _, r in rows:
                x1, y1, x2, y2 = output.boxes[i, r].tolist()
                box = [min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)]
                score = float(output.logits[i, r].exp()[label] / output.logits[i, r].exp().sum())
                if score > score_threshold and box[2] > box[0] and box[3] > box[1]:
                    candidates.append((score, label, box))
            survivors: list[tuple[float, int, list[float]]] = []
            for candidate in sorted(candidates, reverse=True):
                if all(literal_iou(candidate[2], s[2]) <= nms_iou for s in survivors):
                    survivors.append(candidate)
            kept += survivors
        found.append(sorted(kept, reverse=True)[:max_detections])
    return found


def same(found: list[Detections], expected: list[list[tuple[float, int, list[float]]]]) -> None:
    assert len(found) == len(expected)
    for one, wanted in zip(found, expected, strict=True):
        assert one.labels.tolist() == [label for _, label, _ in wanted]
        torch.testing.assert_close(one.scores, torch.tensor([s for s, _, _ in wanted], dtype=torch.float64))
        boxes = torch.tensor([box for _, _, box in wanted], dtype=torch.float64).reshape(-1, 4)
        torch.testing.assert_close(one.boxes, boxes)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "options",
    [
        {"score_threshold": 0.005, "nms_iou": 0.6, "max_detections": 100, "top": 1000},
        {"score_threshold": 0.3, "nms_iou": 0.3, "max_detections": 9, "top": 1000},
        {"score_threshold": 0.0, "nms_iou": 1.0, "max_detections": 1000, "top": 25},
        {"score_threshold": 0.05, "nms_iou": 0.0, "max_detections": 100, "top": 60},
    ],
    ids=str,
)
def test_against_a_literal_version(seed: int, options: dict[str, float]) -> None:
    output = random_output(seed)
    same(detections(output, SIZES, **options), literal_decode(output, SIZES, **options))  # type: ignore[arg-type]


def test_defaults_are_the_papers() -> None:
    """Section 4.2: 1000 positions, NMS 0.6, score 0.005, 100 detections."""
    output = random_output(3, positions=1200, classes=9)
    paper = {"score_threshold": 0.005, "nms_iou": 0.6, "max_detections": 100, "top": 1000}
    same(detections(output, SIZES), literal_decode(output, SIZES, **paper))  # type: ignore[arg-type]
    assert len(detections(output, SIZES)[0].scores) == 100


@pytest.mark.parametrize("top", [1, 20, 59, 60])
def test_dense_output_and_output_at_the_best_positions_give_the_same(top: int) -> None:
    output = random_output(5)
    best = output.objectness.topk(top, dim=1).indices
    everywhere = output.predictions(None)
    assert torch.equal(output.predictions(top).positions, best)
    chosen, inference = everywhere.at(best), InferenceSettings()
    for a, b in zip(decode(chosen, SIZES, inference), detections(output, SIZES, top=top), strict=True):
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.boxes, b.boxes)


@pytest.mark.parametrize("top", [5, 1000])
def test_positions_on_padding_never_come_out(top: int) -> None:
    """Fewer positions with an image than are looked at; what lies on padding has the best scores and boxes inside."""
    output = random_output(1, positions=30)
    logits = output.logits.clone()
    logits[:, :, 0] += 20.0
    objectness = output.objectness.clone()
    objectness[:, 3:] = -INF
    output = output._replace(logits=logits, objectness=objectness)
    found = detections(output, SIZES, top=top)
    only = Output(*(field[:, :3] for field in output))
    for a, b in zip(found, detections(only, SIZES), strict=True):
        assert torch.equal(a.boxes, b.boxes)
    # ... not even at threshold zero, though a score of zero is not above it
    assert all(len(d.scores) <= 3 * 3 for d in detections(output, SIZES, top=top, score_threshold=0.0))


def test_no_detections() -> None:
    output = random_output(2)
    sure = output.logits.clone()
    sure[..., -1] = 50.0  # background
    for found in detections(output._replace(logits=sure), SIZES):
        assert [tuple(field.shape) for field in found] == [(0, 4), (0,), (0,)]
        assert found.labels.dtype == torch.int64
    nowhere = torch.full_like(output.objectness, -INF)
    assert all(len(d.scores) == 0 for d in detections(output._replace(objectness=nowhere), SIZES))


def test_scores_are_softmax_without_objectness_and_images_are_apart() -> None:
    output = random_output(4)
    other = output._replace(objectness=output.objectness * 3)
    for a, b in zip(detections(output, SIZES), detections(other, SIZES), strict=True):
        assert torch.equal(a.scores, b.scores)
    swapped = Output(*(field.flip(0) for field in output))
    for a, b in zip(detections(output, SIZES), reversed(detections(swapped, SIZES.flip(0))), strict=True):
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.scores, b.scores)


def test_order_of_positions_does_not_matter() -> None:
    output = random_output(6)
    order = torch.tensor(random.Random(0).sample(range(60), 60))
    shuffled = Output(*(field[:, order] for field in output))
    for a, b in zip(detections(output, SIZES), detections(shuffled, SIZES), strict=True):
        torch.testing.assert_close(a.scores, b.scores)
        torch.testing.assert_close(a.boxes, b.boxes)


def test_boxes_are_clipped_to_each_image_and_not_to_the_canvas() -> None:
    for (height, width), found in zip(SIZES.tolist(), detections(random_output(7), SIZES), strict=True):
        assert len(found.boxes)
        assert float(found.boxes.min()) >= 0
        assert float(found.boxes[:, 2].max()) <= width
        assert float(found.boxes[:, 3].max()) <= height
        assert bool((found.boxes[:, 2:] > found.boxes[:, :2]).all())
        assert bool((found.scores[:-1] >= found.scores[1:]).all())


@pytest.mark.parametrize("clusters", [3, 40, 2000])  # nearly all is suppressed, some is, nothing is
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_many_boxes_give_what_torchvision_gives(clusters: int, ties: bool, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, classes, most = 1200, 3, 20
    center = 4000 * torch.rand(clusters, 2, generator=generator)[torch.randint(clusters, (rows,), generator=generator)]
    center = center + 8 * torch.rand(rows, 2, generator=generator)
    boxes = torch.cat([center, center + 20 + 10 * torch.rand(rows, 2, generator=generator)], dim=-1).to(dtype)
    scores = (1 + torch.randperm(rows * classes, generator=generator)).reshape(rows, classes) / (1 + rows * classes)
    scores = (torch.ceil(7 * scores) / 8 if ties else scores).to(dtype)
    found = detections_of_image(boxes, scores, InferenceSettings(nms_iou=0.5, max_detections=most))
    row, label = torch.ones(rows, classes).nonzero(as_tuple=True)
    kept = batched_nms(boxes[row], scores.flatten(), label, 0.5)
    if ties:  # the first of equal scores comes first; torchvision names no order
        kept = kept.sort().values
        kept = kept[scores.flatten()[kept].sort(descending=True, stable=True).indices]
    kept = kept[:most]
    for part, wanted in zip(found, (boxes[row][kept], scores.flatten()[kept], label[kept]), strict=True):
        assert torch.equal(part, wanted)
