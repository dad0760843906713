"""The one-stage half of a training step: refinement module, proposals, S-head (sections 3.2, 3.3, 4.1).

B images, A positions, R proposals, Q proposals whose S-head is computed with gradient, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mimicdet.assign import (
    NO_OBJECT,
    Proposals,
    ProposalTargets,
    make_proposals,
    match_anchors,
    match_proposals,
    random_keys,
    sample_balanced,
    sample_some,
)
from mimicdet.config import AssignSettings
from mimicdet.data.batch import Batch
from mimicdet.losses.mimicdet import box_loss, class_losses, objectness_loss
from mimicdet.models.detector import Places
from mimicdet.models.mimicdet import HEAD_STD, REFINEMENT_STD, MimicDet, Refined
from mimicdet.models.s_head import HeadOutput
from mimicdet.ops.precision import autocast_without_cache


class Prepared(NamedTuple):
    """A batch up to its proposals and what they should be."""

    refined: Refined
    anchor_match: Tensor  # (B, A)
    proposals: Proposals
    targets: ProposalTargets
    keys: Tensor  # (B, R, 2) random numbers of each proposal: for the S-head's box samples, for balanced choices


class StudentSums(NamedTuple):
    """Loss sums, the counts they are divided by, and the S-head on the chosen proposals."""

    objectness: Tensor
    refinement_boxes: Tensor
    classification: Tensor
    boxes: Tensor
    anchor_positives: Tensor
    class_count: Tensor
    box_count: Tensor
    chosen: Tensor  # (Q, 2) int64, image and proposal
    head: HeadOutput  # (Q, ...)


def prepare(detector: MimicDet, batch: Batch, assign: AssignSettings) -> Prepared:
    """Runs the detector up to the refinement module, makes proposals and assigns objects to them."""
    refined = detector.refine(batch.images, batch.sizes)
    with torch.no_grad():
        anchor_match = _match_anchors(refined.places, refined.valid, batch, assign)
        proposals = make_proposals(
            refined.adjusted_boxes,
            refined.objectness,
            refined.valid,
            nms_iou=assign.proposal_nms,
            count=assign.proposals,
        )
        targets = match_proposals(
            proposals,
            batch.boxes,
            batch.labels,
            batch.crowd,
            num_classes=detector.num_classes,
            positive_iou=assign.positive_iou,
        )
        # Always as many as there can be: a proposal's number must not depend on how many its batch has
        keys = random_keys(batch.seeds, assign.proposals, 2, batch.images.device)[:, : proposals.positions.shape[1]]
    return Prepared(refined, anchor_match, proposals, targets, keys)


@torch.no_grad()
def count_anchor_positives(detector: MimicDet, batch: Batch, assign: AssignSettings) -> Tensor:
    """0-d float: the positives of a batch's refinement module, which hang on its objects alone."""
    places = detector.places_of(batch.images)
    return (_match_anchors(places, places.valid(batch.sizes), batch, assign) != NO_OBJECT).sum().float()


def _match_anchors(places: Places, valid: Tensor, batch: Batch, assign: AssignSettings) -> Tensor:
    return match_anchors(
        places,
        valid,
        batch.boxes,
        batch.labels,
        batch.crowd,
        center_fraction=assign.center_fraction,
        ensure_match=assign.ensure_match,
    )


def student_sums(
    detector: MimicDet, batch: Batch, prepared: Prepared, assign: AssignSettings, also: Tensor | None = None
) -> StudentSums:
    """Losses of refinement module and S-head.

    Where the S-head's classification learns from the proposals with the highest loss, it is run once without gradient
    to rank all of them; then, with gradient, on the chosen ones only: the same gradient at less cost.

    Args:
        also: (B, R) bool, proposals whose S-head output is wanted besides (the T-head's samples).
    """
    refined, proposals, targets = prepared.refined, prepared.proposals, prepared.targets
    with torch.no_grad():
        classified = _class_samples(detector, prepared, assign)
        positive = (targets.classes >= 0) & (targets.classes < detector.num_classes)
        regressed = sample_some(positive, prepared.keys[..., 0], assign.s_box_samples)
        wanted = classified | regressed if also is None else classified | regressed | also
        chosen = wanted.nonzero()
        image, row = chosen.unbind(1)
        positions = proposals.positions[image, row]
        boxes = proposals.boxes[image, row]
        target_boxes = matched_boxes(batch.boxes, image, targets.match[image, row])
    head = detector.s_head.at(
        refined.pyramid.levels, refined.deltas, refined.places, image * refined.objectness.shape[1] + positions
    )
    on_classified, on_regressed = classified[image, row], regressed[image, row]
    classification = (class_losses(head.logits, targets.classes[image, row]) * on_classified).sum()
    s_boxes = box_loss(head.deltas, target_boxes, boxes, on_regressed, std=HEAD_STD)

    anchor_positive = prepared.anchor_match != NO_OBJECT
    b = torch.arange(len(batch.labels), device=positions.device)[:, None]
    anchor_targets = matched_boxes(batch.boxes, b, prepared.anchor_match)
    counts = classified.sum() if assign.s_box_normalizer == "samples" else regressed.sum()
    return StudentSums(
        objectness=objectness_loss(refined.objectness, anchor_positive, refined.valid),
        refinement_boxes=box_loss(
            refined.deltas, anchor_targets, refined.places.anchors, anchor_positive, std=REFINEMENT_STD
        ),
        classification=classification,
        boxes=s_boxes,
        anchor_positives=anchor_positive.sum(),
        class_count=classified.sum(),
        box_count=counts,
        chosen=chosen,
        head=head,
    )


def _class_samples(detector: MimicDet, prepared: Prepared, assign: AssignSettings) -> Tensor:
    """(B, R) bool: the proposals that the S-head's classification learns from."""
    classes = prepared.targets.classes
    if assign.s_class_choice == "balanced":
        share = assign.t_positive_fraction
        return balanced_samples(detector, classes, prepared.keys, count=assign.s_class_samples, positive_fraction=share)
    with autocast_without_cache(classes.device.type):
        logits = detector.s_head_at(prepared.refined, prepared.proposals.positions).logits
    return sample_some(classes >= 0, -class_losses(logits, classes), assign.s_class_samples)


def balanced_samples(
    detector: MimicDet, classes: Tensor, keys: Tensor, *, count: int, positive_fraction: float
) -> Tensor:
    """(B, R) bool: at most ``count`` random proposals an image, at most that share of them positive."""
    return sample_balanced(
        classes, keys[..., 1], num_classes=detector.num_classes, count=count, positive_fraction=positive_fraction
    )


def matched_boxes(boxes: Tensor, image: Tensor, match: Tensor) -> Tensor:
    """Objects (B, M, 4) by image and index -> (..., 4); NO_OBJECT, or no objects at all, gives a placeholder."""
    if boxes.shape[1] == 0:
        return boxes.new_zeros(*match.shape, 4)
    return boxes[image, match.clamp(min=0)]
