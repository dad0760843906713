"""Training steps of the one-stage detectors: torchvision's own losses as oracle, and what must hold for all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead

from mimicdet.build import learning_of
from mimicdet.config import SETTINGS_OF, settings_from
from mimicdet.data.batch import Batch, collate
from mimicdet.losses.one_stage import centerness
from mimicdet.tasks import build_task
from mimicdet.tasks.detect import OneStageTask
from mimicdet.tasks.task import WholeStep
from tests.fakes.tiny import SIZES, enliven, sample, tiny_batch

FAMILIES = ("retinanet", "fcos", "atss", "gfl")


def make(family: str, **one_stage: Any) -> OneStageTask:
    settings = settings_from(
        {
            "task": "detect",
            "model": {
                "family": family,
                "backbone": "test_resnet",
                "weights": "random",
                "pyramid_channels": 16,
                "head_groups": 0 if family == "retinanet" else 4,
                "frozen_stages": 0,
            },
            "one_stage": one_stage,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = build_task(settings, class_names=["a", "b", "c"])
        assert isinstance(task, OneStageTask)
        enliven(task.detector.head)
    return task


def targets_of(batch: Batch) -> list[dict[str, Tensor]]:
    """In torchvision's form, without the padding."""
    return [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0]}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]


def one_image(seed: int = 0) -> Batch:
    """That fills its canvas: torchvision knows no padding."""
    return tiny_batch(SIZES[:1], seed=seed)


def test_retinanet_is_torchvisions() -> None:
    task, batch = make("retinanet"), one_image()
    maps = task.detector.maps(batch.images)
    match = task.step(batch).match()
    head = task.detector.head
    outputs = {"cls_logits": maps.head.logits, "bbox_regression": maps.head.box_outputs}
    theirs = RetinaNetHead.compute_loss(head, targets_of(batch), outputs, [maps.places.anchors], list(match))  # type: ignore[arg-type]
    found = task(batch)
    assert (match >= 0).sum() > 3
    torch.testing.assert_close(found["classification"], theirs["classification"].detach())
    torch.testing.assert_close(found["boxes"], theirs["bbox_regression"].detach())
    torch.testing.assert_close(found["loss"], found["classification"] + found["boxes"], check_stride=False)


def test_fcos_is_torchvisions() -> None:
    task, batch = make("fcos"), one_image()
    maps = task.detector.maps(batch.images)
    match = task.step(batch).match()
    assert (match >= 0).sum() > 3
    assert maps.head.quality is not None
    outputs = {
        "cls_logits": maps.head.logits,
        "bbox_regression": maps.head.box_outputs,
        "bbox_ctrness": maps.head.quality[..., None],
    }
    oracle = FCOSHead(32, 1, 3)
    theirs = oracle.compute_loss(targets_of(batch), outputs, [maps.places.anchors], list(match))
    found = task(batch)
    for ours, name in (("classification",) * 2, ("boxes", "bbox_regression"), ("quality", "bbox_ctrness")):
        torch.testing.assert_close(found[ours], theirs[name].detach(), atol=1e-5, rtol=1e-5)


def test_atss_and_gfl_weigh_boxes() -> None:
    """ATSS by centerness, GFL by the best score, each over the sum of the weights (or 1, if that is more)."""
    for family in ("atss", "gfl"):
        task, batch = make(family), one_image()
        maps, match = task.detector.maps(batch.images), task.step(batch).match()[0]
        boxes = task.detector.decode_boxes(maps.head.box_outputs, maps.places.anchors, maps.places.stride)
        total = weights = 0.0
        for a in (match >= 0).nonzero().flatten().tolist():
            x1, y1, x2, y2 = boxes[0, a].tolist()
            u1, v1, u2, v2 = batch.boxes[0, match[a]].tolist()
            inter = max(min(x2, u2) - max(x1, u1), 0) * max(min(y2, v2) - max(y1, v1), 0)
            union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - inter
            hull = (max(x2, u2) - min(x1, u1)) * (max(y2, v2) - min(y1, v1))
            anchor = maps.places.anchors[a]
            center = (anchor[:2] + anchor[2:]) / 2
            weight = (
                centerness(center, batch.boxes[0, match[a]])
                if family == "atss"
                else maps.head.logits[0, a].sigmoid().max()
            ).item()
            total += weight * (1 - inter / union + (hull - union) / hull)
            weights += weight
        assert weights > 0
        assert task(batch)["boxes"].item() == pytest.approx(total / max(weights, 1), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_multiply_the_parts(family: str) -> None:
    batch = tiny_batch()
    names = learning_of(SETTINGS_OF[family]()).weights
    weights = {name: 0.5 + i for i, name in enumerate(names)}
    found = make(family, **weights)(batch)
    expected = sum(weight * found[name] for name, weight in weights.items())
    torch.testing.assert_close(found["loss"].detach(), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_learns(family: str) -> None:
    """The backbone's are left out: random ResNets begin with residual branches of nothing."""
    task = make(family)
    task(tiny_batch())["loss"].backward()
    for name, parameter in task.named_parameters():
        if "backbone" not in name:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_no_objects_and_none_but_crowds(family: str) -> None:
    """Finite, every parameter in the graph, and only the classifier learns."""
    task = make(family)
    for batch in (tiny_batch(objects=0), tiny_batch()):
        if batch.labels.shape[1]:
            batch.crowd[:] = batch.labels >= 0
        task.zero_grad()
        found = task(batch)
        assert found["loss"].isfinite()
        assert found["boxes"].item() == 0
        found["loss"].backward()
        assert all(p.grad is not None for p in task.detector.head.parameters())


@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_accumulated_batches_have_the_gradient_of_one_with_all_their_images(family: str) -> None:
    """Of those detectors that divide by positives alone."""
    task = make(family).double()
    few, many = [sample(seed=1, objects=1)], [sample(seed=2, objects=6)]
    batches, together = [collate(few), collate(many)], collate([*few, *many])
    counts = torch.stack([task.count_positives(batch) for batch in batches])
    assert counts.sum() == task.count_positives(together)
    assert 0 < counts[0] < counts[1]
    for batch in batches:
        (task(batch, WholeStep(counts.sum(), 2))["loss"] / 2).backward()
    found = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    task.zero_grad()
    task(together)["loss"].backward()
    for name, parameter in task.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_images_does_not_matter(family: str) -> None:
    task = make(family).eval()
    sizes = list(SIZES)
    first, second = (tiny_batch(order) for order in (sizes, sizes))
    order = torch.tensor([2, 0, 1])
    permuted = Batch(
        images=second.images[order],
        sizes=second.sizes[order],
        boxes=second.boxes[order],
        labels=second.labels[order],
        crowd=second.crowd[order],
        seeds=second.seeds[order],
        image_ids=second.image_ids,
        files=second.files,
        original_sizes=second.original_sizes,
    )
    one, other = task(first), task(permuted)
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4)


def test_learns_one_image() -> None:
    """Each detector's loss falls by half within forty steps on one image."""
    for family in FAMILIES:
        task, batch = make(family), one_image()
        optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=2e-3)
        losses = []
        for _ in range(40):
            optimizer.zero_grad()
            loss = task(batch)["loss"]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0], family
