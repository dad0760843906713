from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mimicdet.build import build_model
from mimicdet.config import InferenceSettings, MimicDetSettings
from mimicdet.data.batch import Batch, collate
from mimicdet.inference.decode import Detections, decode
from mimicdet.models.mimicdet import MimicDet
from mimicdet.ops.boxes import decode_deltas
from tests.fakes.tiny import SIZES, enliven, on_canvas, samples, tiny_batch, tiny_detector

INFERENCE = InferenceSettings(score_threshold=0.05, nms_iou=0.6, max_detections=50)


def detections(detector: MimicDet, batch: Batch, *, top: int = 1000, dense: bool = False) -> list[Detections]:
    with torch.no_grad():
        output = detector(batch.images, batch.sizes, dense=dense, top=top)
    return decode(output, batch.sizes, INFERENCE)


def same(found: list[Detections], expected: list[Detections], *, tolerance: float = 1e-10) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert len(a.scores) > 5, "nothing to compare"
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=tolerance)
        torch.testing.assert_close(a.boxes, b.boxes, rtol=0, atol=100 * tolerance)


# The output


@pytest.mark.parametrize("alignment", ["guided", "deformable", "conv"])
def test_output_at_positions_is_the_dense_one_read_there(alignment: str) -> None:
    detector, batch = tiny_detector(alignment=alignment), tiny_batch()
    dense = detector(batch.images, batch.sizes, dense=True, top=None)
    found = detector(batch.images, batch.sizes, top=40)
    a = 12 * 16 + 6 * 8 + 3 * 4 + 2 * 2 + 1
    assert dense.positions.tolist() == [list(range(a))] * 3
    assert dense.scores.shape == (3, a, 3)
    assert found.positions.shape == (3, 40)
    chosen = detector(batch.images, batch.sizes, dense=True, top=40)
    assert torch.equal(chosen.positions, found.positions)
    for field in ("scores", "boxes"):
        torch.testing.assert_close(getattr(chosen, field), getattr(found, field), rtol=0, atol=1e-9)
        expected = torch.stack([getattr(dense, field)[i, rows] for i, rows in enumerate(found.positions)])
        torch.testing.assert_close(getattr(found, field), expected, rtol=0, atol=1e-9)


@torch.no_grad()
def test_positions_are_the_best_by_refinement_score_inside_the_image() -> None:
    detector, batch = tiny_detector(), tiny_batch()
    output = detector(batch.images, batch.sizes, top=30)
    refined = detector.refine(batch.images, batch.sizes)
    for i, (height, width) in enumerate(SIZES):
        scores = []
        for a, score in enumerate(refined.objectness[i].tolist()):
            stride = 2 ** (3 + int(refined.places.level[a]))
            if int(refined.places.y[a]) * stride < height and int(refined.places.x[a]) * stride < width:
                scores.append((score, a))
            else:
                assert not refined.valid[i, a]
                assert a not in output.positions[i]
        assert [a for _, a in sorted(scores, reverse=True)[:30]] == output.positions[i].tolist()


def test_asking_for_more_positions_than_there_are_gives_all() -> None:
    detector, batch = tiny_detector(), tiny_batch()
    output = detector(batch.images, batch.sizes, top=5000)
    assert [sorted(rows) for rows in output.positions.tolist()] == [list(range(257))] * 3


def test_boxes_are_moved_twice() -> None:
    """Anchors by raw deltas, then by deltas of deviation .1 .1 .2 .2 (section 4.2)."""
    detector, batch = tiny_detector(), tiny_batch()
    refined = detector.refine(batch.images, batch.sizes)
    head = detector.s_head.dense(refined.pyramid.levels, refined.deltas)
    output = detector(batch.images, batch.sizes, dense=True, top=None)
    once = decode_deltas(refined.deltas, refined.places.anchors.double(), std=(1, 1, 1, 1))
    torch.testing.assert_close(refined.adjusted_boxes, once)
    torch.testing.assert_close(output.boxes, decode_deltas(head.deltas, once, std=(0.1, 0.1, 0.2, 0.2)))
    assert not refined.adjusted_boxes.requires_grad, "proposals are fixed boxes"


def test_training_mode_changes_nothing() -> None:
    detector, batch = tiny_detector(), tiny_batch()
    for a, b in zip(detector.train()(batch.images), detector.eval()(batch.images), strict=True):
        assert torch.equal(a, b)


def test_images_may_be_bytes_or_fractions_and_sizes_may_be_left_out() -> None:
    detector, batch = tiny_detector(), tiny_batch([(64, 96)] * 2)
    expected = detector(batch.images, batch.sizes)
    for found in (detector(batch.images.double() / 255, batch.sizes), detector(batch.images)):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 60, 64), (1, 3, 64, 33)])
def test_images_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 32, got"):
        tiny_detector()(torch.zeros(shape))


def test_gradient_reaches_every_part_through_the_output() -> None:
    detector, batch = tiny_detector(offset_grad=0.1), tiny_batch()
    output = detector(batch.images, batch.sizes, top=100)
    (output.scores.square().sum() + output.boxes.sum()).backward()
    reached = {name.split(".")[0] for name, p in detector.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"trunk", "refinement", "s_head"}
    assert all(
        any(p.grad is not None and p.grad.any() for p in part.parameters()) for part in detector.trunk.children()
    )


# Batches


@pytest.mark.parametrize("alignment", ["guided", "deformable", "conv"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("top", [25, 1000])
def test_a_batch_is_its_images_one_by_one_whatever_the_padding(alignment: str, dense: bool, top: int) -> None:
    detector = tiny_detector(alignment=alignment)
    images = samples()
    batch = collate(images)
    alone = [detections(detector, collate([s]), top=top, dense=dense)[0] for s in images]
    assert {tuple(collate([s]).images.shape[2:]) for s in images} == {(96, 128), (64, 128), (96, 64)}
    same(detections(detector, batch, top=top, dense=dense), alone)
    same(detections(detector, on_canvas(batch, 224, 160), top=top, dense=dense), alone)


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0)])
def test_permuting_images_permutes_results(order: tuple[int, ...]) -> None:
    detector, images = tiny_detector(), samples()
    expected = detections(detector, collate(images))
    same(detections(detector, collate([images[i] for i in order])), [expected[i] for i in order], tolerance=1e-12)


def test_a_batch_is_its_images_one_by_one_with_a_real_backbone_on_the_same_canvas() -> None:
    """There a canvas of another size reaches the image through the backbone's receptive field, as everywhere."""
    settings = MimicDetSettings.Model(
        backbone="tf_efficientnet_lite0", weights="random", pyramid_channels=8, head_channels=8, head_features=12
    )
    torch.manual_seed(0)
    detector = build_model(settings, 3).eval()
    for part in (detector.trunk.pyramid, detector.refinement, detector.s_head):
        enliven(part)
    with torch.no_grad():
        detector.refinement.deltas.weight.mul_(0.01)
        # The random network's features vanish; scaled up, images differ
        for key, buffer in detector.trunk.backbone.named_buffers():
            if key.endswith("running_var"):
                buffer.fill_(0.1)
    batch = collate(samples())
    found = detections(detector.double(), batch)
    assert not torch.equal(found[0].scores[:5], found[1].scores[:5])
    for i in range(3):
        one = Batch(
            images=batch.images[i : i + 1],
            sizes=batch.sizes[i : i + 1],
            boxes=batch.boxes[i : i + 1],
            labels=batch.labels[i : i + 1],
            crowd=batch.crowd[i : i + 1],
            seeds=batch.seeds[i : i + 1],
            image_ids=(0,),
            files=("",),
            original_sizes=((0, 0),),
        )
        same(detections(detector, one), found[i : i + 1], tolerance=1e-6)


def test_what_lies_on_the_padding_changes_nothing() -> None:
    detector, batch = tiny_detector(), tiny_batch()
    noise: Tensor = torch.randint(0, 256, batch.images.shape, dtype=torch.uint8)
    for i, (height, width) in enumerate(SIZES):
        noise[i, :, :height, :width] = batch.images[i, :, :height, :width]
    found = detector(noise, batch.sizes)
    for a, b in zip(found, detector(batch.images, batch.sizes), strict=True):
        assert torch.equal(a, b)
