from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mimicdet.assign import NO_OBJECT
from mimicdet.config import AssignSettings
from mimicdet.data.batch import Batch, collate
from mimicdet.models.mimicdet import MimicDet
from mimicdet.tasks.student import StudentSums, matched_boxes, prepare, student_sums
from tests.fakes.tiny import on_canvas, sample, samples, tiny_batch, tiny_detector, tiny_settings
from tests.tasks.literal import student_terms, total

ASSIGN = tiny_settings().assign


def sums_of(detector: MimicDet, batch: Batch, assign: AssignSettings = ASSIGN, *, every: bool = False) -> StudentSums:
    prepared = prepare(detector, batch, assign)
    return student_sums(detector, batch, prepared, assign, also=prepared.proposals.valid if every else None)


def loss_of(sums: StudentSums) -> torch.Tensor:
    return sums.objectness + 2 * sums.refinement_boxes + 3 * sums.classification + 5 * sums.boxes


# One pass and two


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"offset_grad": 1.0, "offsets": "learned"},
        {"alignment": "deformable"},
        {"alignment": "conv", "paths": "single"},
        {"kernel_size": 3, "finest_kernel_size": 3, "offset_grad": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("every", [False, True])
def test_two_passes_give_the_gradient_of_one_over_all_proposals(options: dict[str, Any], every: bool) -> None:
    """Sums and gradients against a version that computes the S-head everywhere, with gradient."""
    detector, batch = tiny_detector(**options), tiny_batch()
    sums = sums_of(detector, batch, every=every)
    prepared = prepare(detector, batch, ASSIGN)
    refined = prepared.refined
    dense = detector.s_head.dense(refined.pyramid.levels, refined.deltas)
    terms = student_terms(detector, batch, prepared, dense, ASSIGN)
    names = ("objectness", "refinement_boxes", "classification", "boxes")
    for name in names:
        assert len(terms[name]) > 5
        # Objects are float32 and so is some arithmetic on them; an L1 loss's gradient does not see it
        tolerance = 1e-6 if "boxes" in name else 1e-11
        torch.testing.assert_close(getattr(sums, name), total(terms[name]), rtol=tolerance, atol=tolerance)
    assert int(sums.anchor_positives) == len(terms["refinement_boxes"])
    assert int(sums.class_count) == int(sums.box_count) == len(terms["classification"]) == 3 * 24

    weighted = total([w * total(terms[name]) for w, name in zip((1.0, 2.0, 3.0, 5.0), names, strict=True)])
    parameters = dict(detector.named_parameters())
    found = torch.autograd.grad(loss_of(sums), list(parameters.values()))
    expected = torch.autograd.grad(weighted, list(parameters.values()))
    for name, a, b in zip(parameters, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_the_first_pass_keeps_no_graph_and_leaves_no_half_precision_weights_behind() -> None:
    """Weights cast under no_grad stay in autocast's cache, without gradient, in torch before 2.11."""
    detector = tiny_detector(dtype=torch.float32)
    seen: list[tuple[bool, bool, torch.dtype]] = []

    def note(_: object, __: object, out: torch.Tensor) -> None:
        seen.append((torch.is_grad_enabled(), torch.is_autocast_cache_enabled(), out.dtype))

    detector.s_head.class_features.register_forward_hook(note)
    sums_of(detector, tiny_batch())
    with torch.autocast("cpu", torch.bfloat16):
        sums_of(detector, tiny_batch())
    full, half = torch.float32, torch.bfloat16
    assert seen == [(False, False, full), (True, True, full), (False, False, half), (True, True, half)]


# What is chosen


def test_the_hardest_proposals_train_the_classification() -> None:
    detector, batch = tiny_detector(), tiny_batch()
    sums = sums_of(detector, batch)
    prepared = prepare(detector, batch, ASSIGN)
    with torch.no_grad():
        logits = detector.s_head_at(prepared.refined, prepared.proposals.positions).logits
    chosen = {tuple(pair) for pair in sums.chosen.tolist()}
    for i in range(3):
        losses = []
        for r, target in enumerate(prepared.targets.classes[i].tolist()):
            if target >= 0:
                losses.append((float(-logits[i, r].log_softmax(-1)[target]), r))
        hardest = {(i, r) for _, r in sorted(losses, reverse=True)[:24]}
        assert len(hardest) == 24
        assert hardest <= chosen
        assert len({pair for pair in chosen if pair[0] == i} - hardest) <= ASSIGN.s_box_samples


def test_the_heads_output_is_given_for_each_chosen_proposal() -> None:
    detector, batch = tiny_detector(), tiny_batch()
    prepared = prepare(detector, batch, ASSIGN)
    also = torch.zeros_like(prepared.proposals.valid)
    also[1, 5:60:3] = True
    sums = student_sums(detector, batch, prepared, ASSIGN, also=also)
    assert {tuple(pair) for pair in also.nonzero().tolist()} <= {tuple(pair) for pair in sums.chosen.tolist()}
    assert sums.chosen.tolist() == sorted(sums.chosen.tolist()), "image by image, proposal by proposal"
    dense = detector.s_head.dense(prepared.refined.pyramid.levels, prepared.refined.deltas)
    for q, (i, r) in enumerate(sums.chosen.tolist()):
        position = prepared.proposals.positions[i, r]
        torch.testing.assert_close(sums.head.logits[q], dense.logits[i, position], rtol=0, atol=1e-10)
        torch.testing.assert_close(sums.head.box_feature[q], dense.box_feature[i, position], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("changes", "same", "other"),
    [
        ({"s_class_samples": 7}, ("objectness", "refinement_boxes", "boxes"), ("classification",)),
        ({"s_class_choice": "balanced"}, ("objectness", "refinement_boxes", "boxes"), ("classification",)),
        ({"s_box_samples": 2}, ("objectness", "refinement_boxes", "classification"), ("boxes",)),
        ({"center_fraction": 1.0}, ("classification", "boxes"), ("objectness", "refinement_boxes")),
        ({"ensure_match": False}, ("classification", "boxes"), ("objectness", "refinement_boxes")),
        ({"proposal_nms": 0.3}, ("objectness", "refinement_boxes"), ("classification", "boxes")),
        ({"proposals": 30}, ("objectness", "refinement_boxes"), ("classification", "boxes")),
        ({"positive_iou": 0.8}, ("objectness", "refinement_boxes"), ("classification", "boxes")),
    ],
    ids=str,
)
def test_each_setting_changes_what_it_is_about(
    changes: dict[str, Any], same: tuple[str, ...], other: tuple[str, ...]
) -> None:
    detector = tiny_detector()
    small = sample((96, 128), seed=5)
    boxes = small.boxes.clone()
    boxes[0] = torch.tensor([10.5, 18.5, 18.0, 25.0])  # holds no anchor centre in its middle, one inside
    batch = collate([replace(small, boxes=boxes), *samples(seed=20)])
    before = sums_of(detector, batch)
    after = sums_of(detector, batch, ASSIGN.model_copy(update=changes))
    for name in same:
        torch.testing.assert_close(getattr(before, name), getattr(after, name), rtol=1e-13, atol=0)
    for name in other:
        assert abs(float((getattr(before, name) - getattr(after, name)).detach())) > 1e-3, name


def test_the_box_losss_normaliser() -> None:
    detector, batch = tiny_detector(), tiny_batch()
    by_samples = sums_of(detector, batch)
    by_positives = sums_of(detector, batch, ASSIGN.model_copy(update={"s_box_normalizer": "positives"}))
    assert torch.equal(by_samples.boxes, by_positives.boxes)
    assert int(by_samples.box_count) == int(by_samples.class_count) == 3 * 24
    prepared = prepare(detector, batch, ASSIGN)
    positives = ((prepared.targets.classes >= 0) & (prepared.targets.classes < 3)).sum(1).clamp(max=6)
    assert 0 < int(positives.sum()) < 3 * 24
    assert int(by_positives.box_count) == int(positives.sum())


# Randomness


def test_an_images_draws_depend_on_its_own_seed_alone() -> None:
    detector, images = tiny_detector(), samples()
    whole = prepare(detector, collate(images), ASSIGN)
    for i, one in enumerate(images):
        alone = prepare(detector, on_canvas(collate([one]), 160, 160), ASSIGN)
        r = int(alone.proposals.valid.sum())
        assert torch.equal(alone.keys[0, :r], whole.keys[i, :r])
        assert torch.equal(alone.proposals.positions[0, :5] * 0, whole.proposals.positions[i, :5] * 0)
    other = prepare(detector, collate([replace(one, seed=one.seed + 50) for one in images]), ASSIGN)
    assert not torch.equal(other.keys, whole.keys)
    assert torch.equal(other.proposals.positions, whole.proposals.positions)
    assert not torch.equal(whole.keys[..., 0], whole.keys[..., 1]), "S-head and T-head draw apart"


def test_the_global_random_state_has_no_part_in_it() -> None:
    detector, batch = tiny_detector(), tiny_batch()
    torch.manual_seed(1)
    first = loss_of(sums_of(detector, batch))
    state = torch.get_rng_state()
    second = loss_of(sums_of(detector, batch))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())


# Batches


@pytest.mark.parametrize("alignment", ["guided", "deformable", "conv"])
def test_sums_of_a_batch_are_those_of_its_images_whatever_the_padding(alignment: str) -> None:
    detector = tiny_detector(alignment=alignment)
    images = [*samples(), sample((40, 64), seed=9, objects=0)]
    batch = collate(images)
    alone = [sums_of(detector, collate([one])) for one in images]
    for found in (sums_of(detector, batch), sums_of(detector, on_canvas(batch, 192, 256))):
        for name in ("objectness", "refinement_boxes", "classification", "boxes"):
            expected = total([getattr(one, name) for one in alone])
            torch.testing.assert_close(getattr(found, name), expected, rtol=1e-11, atol=1e-11)
        for name in ("anchor_positives", "class_count", "box_count"):
            assert int(getattr(found, name)) == sum(int(getattr(one, name)) for one in alone)


def test_matched_boxes() -> None:
    boxes = torch.arange(24.0).reshape(2, 3, 4)
    image, match = torch.tensor([1, 0, 1]), torch.tensor([2, NO_OBJECT, 0])
    found = matched_boxes(boxes, image, match)
    assert torch.equal(found[0], boxes[1, 2])
    assert torch.equal(found[2], boxes[1, 0])
    assert found.shape == (3, 4)
    grid = matched_boxes(boxes, torch.tensor([[0], [1]]), torch.tensor([[0, 1, 2, 2], [0, 0, 0, 1]]))
    assert torch.equal(grid[0, 3], boxes[0, 2])
    assert torch.equal(grid[1, 3], boxes[1, 1])
    none = matched_boxes(boxes[:, :0], image, torch.full((3,), NO_OBJECT))
    assert none.shape == (3, 4)
    assert not none.any()
