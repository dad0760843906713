"""Faster R-CNN: torchvision's own, given the same weights, finds and loses the same."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from mimicdet.build import build_model
from mimicdet.config import FasterRcnnSettings, InferenceSettings
from mimicdet.inference.detect import detect
from mimicdet.models.faster_rcnn import FasterRcnn, _best

HEIGHT, WIDTH, CLASSES = 96, 128, 3


def make(seed: int = 0) -> FasterRcnn:
    """Weights that propose, classify and move."""
    torch.manual_seed(seed)
    settings = FasterRcnnSettings.Model(
        backbone="test_resnet",
        weights="random",
        pyramid_channels=16,
        head_features=32,
        levels=(2, 3, 4, 5, 6),
        pyramid_top="p5",
        frozen_stages=0,
    )
    model = build_model(settings, CLASSES)
    assert isinstance(model, FasterRcnn)
    for layer in (*model.rpn.head.modules(), model.roi_heads.box_predictor.cls_score):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.1 if isinstance(layer, nn.Conv2d) else 1.0)
    return model.eval()


class Features(nn.Module):
    """The model's backbone and pyramid in torchvision's form; images come normalised to 0..1."""

    def __init__(self, model: FasterRcnn) -> None:
        super().__init__()
        self.model = model
        self.out_channels = model.trunk.channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        levels = self.model.trunk(images).levels
        return OrderedDict((f"p{l}", f) for l, f in zip(self.model.trunk.level_numbers, levels, strict=True))


def torchvisions(model: FasterRcnn) -> FasterRCNN:
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    other = FasterRCNN(
        Features(model),
        num_classes=None,
        min_size=HEIGHT,
        max_size=WIDTH,
        image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(["p2", "p3", "p4", "p5"], 7, 2),
        box_head=model.roi_heads.box_head,
        box_predictor=model.roi_heads.box_predictor,
        box_score_thresh=0.3,
        rpn_head=model.rpn.head,
    )
    return other.eval()


@torch.no_grad()
def test_it_finds_what_torchvisions_finds() -> None:
    model = make()
    images = torch.rand(2, 3, HEIGHT, WIDTH)
    sizes = torch.tensor([[HEIGHT, WIDTH]] * 2)
    expected = torchvisions(model)(list(images))
    found = detect(model, images, sizes, InferenceSettings(score_threshold=0.3, nms_iou=0.5))
    assert any(len(e["scores"]) > 3 for e in expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.scores, theirs["scores"])
        torch.testing.assert_close(ours.boxes, theirs["boxes"], atol=1e-3, rtol=1e-4)
        assert torch.equal(ours.labels, theirs["labels"] - 1)


def test_it_loses_what_torchvisions_loses() -> None:
    """With the same random choice of samples; one image has no object."""
    model = make().train()
    images = torch.rand(2, 3, HEIGHT, WIDTH)
    boxes = torch.tensor([[10.0, 12, 60, 70], [50, 20, 120, 90]])
    targets = [
        {"boxes": boxes, "labels": torch.tensor([0, 2])},
        {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    theirs = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]
    other = torchvisions(model).train()
    other.transform.eval()  # in training it draws a size, from the same random numbers
    torch.manual_seed(7)
    expected = other(list(images), theirs)
    torch.manual_seed(7)
    found = model.losses(images, torch.tensor([[HEIGHT, WIDTH]] * 2), targets)
    names = {
        "proposal_objectness": "loss_objectness",
        "proposal_boxes": "loss_rpn_box_reg",
        "classification": "loss_classifier",
        "boxes": "loss_box_reg",
    }
    for name, own in names.items():
        torch.testing.assert_close(found[name], expected[own])
    torch.stack(list(found.values())).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def test_what_it_says_of_given_boxes_does_not_depend_on_their_order() -> None:
    model, images = make(), torch.rand(2, 3, HEIGHT, WIDTH)
    sizes = torch.tensor([[HEIGHT, WIDTH]] * 2)
    boxes = torch.tensor([[0.0, 0, 40, 50], [30, 20, 90, 80], [5, 5, 100, 60], [60, 40, 128, 96]])
    image = torch.tensor([1, 0, 1, 0])
    together = model.second_stage_at(images, sizes, boxes, image)
    assert [tuple(part.shape) for part in together] == [(4, 1 + CLASSES), (4, CLASSES, 4), (4, 32)]
    for i in range(4):
        alone = model.second_stage_at(
            images[image[i]][None], sizes[:1], boxes[i][None], torch.zeros(1, dtype=torch.int64)
        )
        for part, own in zip(together, alone, strict=True):
            torch.testing.assert_close(part[i], own[0])


def test_the_best_rows() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.5, 0.2]])
    boxes = torch.arange(16.0).reshape(2, 2, 4)
    index, rows, found = _best(scores, boxes, 3)
    assert index.tolist() == [1, 2, 3]
    torch.testing.assert_close(rows, torch.tensor([[0, 0.9], [0.5, 0], [0, 0.2]]))
    torch.testing.assert_close(found, boxes.flatten(0, 1)[index])
    _, rows, found = _best(scores, boxes, 6)
    assert rows[4:].eq(0).all()
    assert found[4:].eq(0).all()


@torch.no_grad()
def test_a_low_image_does_not_set_the_scale_for_those_after_it() -> None:
    """44 pixels on a canvas of 64: torchvision's pool would take its levels for twice as fine, for ever."""
    boxes, image = torch.tensor([[10.0, 12, 60, 70]]), torch.zeros(1, dtype=torch.int64)
    whole, sizes = torch.rand(1, 3, HEIGHT, WIDTH), torch.tensor([[HEIGHT, WIDTH]])
    expected = make().second_stage_at(whole, sizes, boxes, image)
    model = make()
    low = model(torch.rand(1, 3, 64, WIDTH), torch.tensor([[44, WIDTH]]))
    assert low.scores.isfinite().all()
    for found, wanted in zip(model.second_stage_at(whole, sizes, boxes, image), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_boxes_are_exact_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposals and what is learned from them are float32 whatever the network computes in."""
    model = make().train()
    seen: list[Tensor] = []
    original = type(model.roi_heads).select_training_samples

    def select(self: Any, proposals: Any, targets: Any) -> Any:
        found = original(self, proposals, targets)
        seen.extend([*proposals, *found[0], *found[3]])
        return found

    monkeypatch.setattr(type(model.roi_heads), "select_training_samples", select)
    targets = [{"boxes": torch.tensor([[101.3, 7.7, 121.9, 26.1]]), "labels": torch.tensor([0])}]
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(torch.rand(1, 3, HEIGHT, WIDTH), torch.tensor([[HEIGHT, WIDTH]]), targets)
    assert seen
    assert {tensor.dtype for tensor in (*seen, *losses.values())} == {torch.float32}


@pytest.mark.parametrize("top", [10, None])
def test_rows(top: int | None) -> None:
    model = make()
    output = model(torch.rand(1, 3, 64, 96), top=top)
    assert output.scores.shape[2] == CLASSES
    assert (output.scores > 0).sum(-1).max() <= 1
    assert output.scores.shape[1] > 10 if top is None else output.scores.shape[1] == top
