"""Computes MimicDet's own half of a training step: refinement module, proposals, S-head (sections 3.2, 3.3, 4.1).

B images, A positions, R proposals, Q proposals whose S-head is computed with gradient, K classes.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from mimicdet import assign as matching
from mimicdet.config import AssignSettings, LossSettings
from mimicdet.data.batch import Batch
from mimicdet.losses.mimicdet import box_loss, class_losses, objectness_loss
from mimicdet.models.detector import Places
from mimicdet.models.mimicdet import HEAD_STD, REFINEMENT_STD, MimicDet, Refined
from mimicdet.models.s_head import HeadOutput
from mimicdet.ops.precision import autocast_without_cache
from mimicdet.tasks.task import TaskStep


class Sampled(NamedTuple):
    """Holds N proposals of a batch and what they should be, in the order in which they were chosen."""

    image: Tensor  # (N,) int64
    row: Tensor  # (N,) int64, the proposal's number in its image
    position: Tensor  # (N,) int64, the anchor position that it comes from
    level: Tensor  # (N,) int64, index into the levels
    boxes: Tensor  # (N, 4)
    classes: Tensor  # (N,) int64, as in ``ProposalTargets``
    match: Tensor  # (N,) int64, index of the object, or NO_OBJECT
    wanted: Tensor  # (N, 4) the object's box, or a placeholder

    @property
    def positive(self) -> Tensor:
        """Marks those that have an object: (N,) bool."""
        return self.match != matching.NO_OBJECT


class Prepared(NamedTuple):
    """Holds a batch up to its proposals and what they should be."""

    refined: Refined
    anchor_match: Tensor  # (B, A)
    proposals: matching.Proposals
    targets: matching.ProposalTargets
    keys: Tensor  # (B, R, 2) random numbers of each proposal: for the S-head's box samples, for balanced choices

    def sample(self, batch: Batch, chosen: Tensor) -> Sampled:
        """Looks up proposals by image and number: ``chosen`` (N, 2) int64."""
        image, row = chosen.unbind(1)
        position, boxes = self.proposals.positions[image, row], self.proposals.boxes[image, row]
        classes, match = self.targets.classes[image, row], self.targets.match[image, row]
        level, wanted = self.refined.places.level[position], matched_boxes(batch.boxes, image, match)
        return Sampled(image, row, position, level, boxes, classes, match, wanted)

    def balanced(self, detector: MimicDet, assign: AssignSettings, count: int) -> Tensor:
        """Chooses up to ``count`` random proposals an image, ``t_positive_fraction`` of them positive: (B, R) bool."""
        classes, keys, share = self.targets.classes, self.keys[..., 1], assign.t_positive_fraction
        k = detector.num_classes
        return matching.sample_balanced(classes, keys, num_classes=k, count=count, positive_fraction=share)


class StudentSums(NamedTuple):
    """Holds loss sums, the counts they are divided by, and the S-head on the chosen proposals."""

    objectness: Tensor
    refinement_boxes: Tensor
    classification: Tensor
    boxes: Tensor
    anchor_positives: Tensor
    class_count: Tensor
    box_count: Tensor
    chosen: Tensor  # (Q, 2) int64, image and proposal
    head: HeadOutput  # (Q, ...)

    def parts(self, counts: Tensor) -> dict[str, Tensor]:
        """Returns the losses by name; ``counts`` begin with positive anchors, class samples, box samples."""
        return {
            "refinement_objectness": self.objectness / counts[0],
            "refinement_boxes": self.refinement_boxes / counts[0],
            "s_classification": self.classification / counts[1],
            "s_boxes": self.boxes / counts[2],
        }


def prepare(detector: MimicDet, batch: Batch, assign: AssignSettings) -> Prepared:
    """Runs the detector up to the refinement module, makes proposals and assigns objects to them."""
    refined = detector.refine(batch.images, batch.sizes)
    boxes, valid, objects = refined.adjusted_boxes, refined.valid, (batch.boxes, batch.labels, batch.crowd)
    with torch.no_grad():
        anchor_match = _match_anchors(refined.places, valid, batch, assign)
        nms_iou, k = assign.proposal_nms, detector.num_classes
        proposals = matching.make_proposals(boxes, refined.objectness, valid, nms_iou=nms_iou, count=assign.proposals)
        targets = matching.match_proposals(proposals, *objects, num_classes=k, positive_iou=assign.positive_iou)
        # Always as many as there can be: a proposal's number must not depend on how many its batch has
        keys = matching.random_keys(batch.seeds, assign.proposals, 2, batch.images.device)
        keys = keys[:, : proposals.positions.shape[1]]
    return Prepared(refined, anchor_match, proposals, targets, keys)


@torch.no_grad()
def count_anchor_positives(detector: MimicDet, batch: Batch, assign: AssignSettings) -> Tensor:
    """Counts the positives of a batch's refinement module, which depend on its objects alone: 0-d float."""
    places = detector.places_of(batch.images)
    return (_match_anchors(places, places.valid(batch.sizes), batch, assign) != matching.NO_OBJECT).sum().float()


def _match_anchors(places: Places, valid: Tensor, batch: Batch, assign: AssignSettings) -> Tensor:
    objects = (batch.boxes, batch.labels, batch.crowd)
    share, ensure = assign.center_fraction, assign.ensure_match
    return matching.match_anchors(places, valid, *objects, center_fraction=share, ensure_match=ensure)


def student_sums(
    detector: MimicDet, batch: Batch, prepared: Prepared, assign: AssignSettings, also: Tensor | None = None
) -> StudentSums:
    """Sums the losses of refinement module and S-head.

    Where the S-head's classification learns from the proposals with the highest loss, it is run once without gradient
    to rank all of them; then, with gradient, on the chosen ones only: the same gradient at less cost.

    ``also`` (B, R) bool: further proposals whose S-head output is wanted (the T-head's samples).
    """
    refined, targets = prepared.refined, prepared.targets
    with torch.no_grad():
        classified = _class_samples(detector, prepared, assign)
        positive = (targets.classes >= 0) & (targets.classes < detector.num_classes)
        regressed = matching.sample_some(positive, prepared.keys[..., 0], assign.s_box_samples)
        wanted = classified | regressed if also is None else classified | regressed | also
        chosen = wanted.nonzero()
        sampled = prepared.sample(batch, chosen)
        rows = sampled.image * refined.objectness.shape[1] + sampled.position
        on_classified, on_regressed = (mask[sampled.image, sampled.row] for mask in (classified, regressed))
    head = detector.s_head.at(refined.pyramid.levels, refined.deltas, refined.places, rows)
    classification = (class_losses(head.logits, sampled.classes) * on_classified).sum()
    s_boxes = box_loss(head.deltas, sampled.wanted, sampled.boxes, on_regressed, std=HEAD_STD)
    anchors, anchor_positive = refined.places.anchors, prepared.anchor_match != matching.NO_OBJECT
    b = torch.arange(len(batch.labels), device=rows.device)[:, None]
    anchor_targets = matched_boxes(batch.boxes, b, prepared.anchor_match)
    objectness = objectness_loss(refined.objectness, anchor_positive, refined.valid)
    boxes = box_loss(refined.deltas, anchor_targets, anchors, anchor_positive, std=REFINEMENT_STD)
    box_samples = classified if assign.s_box_normalizer == "samples" else regressed
    counts = (anchor_positive.sum(), classified.sum(), box_samples.sum())
    return StudentSums(objectness, boxes, classification, s_boxes, *counts, chosen, head)


def _class_samples(detector: MimicDet, prepared: Prepared, assign: AssignSettings) -> Tensor:
    """(B, R) bool: the proposals that the S-head's classification learns from."""
    if assign.s_class_choice == "balanced":
        return prepared.balanced(detector, assign, assign.s_class_samples)
    classes = prepared.targets.classes
    with autocast_without_cache(classes.device.type):
        logits = detector.s_head_at(prepared.refined, prepared.proposals.positions).logits
    return matching.sample_some(classes >= 0, -class_losses(logits, classes), assign.s_class_samples)


def matched_boxes(boxes: Tensor, image: Tensor, match: Tensor) -> Tensor:
    """Looks up objects (B, M, 4) by image and index: (..., 4); NO_OBJECT, or no objects at all, gives a placeholder."""
    if boxes.shape[1] == 0:
        return boxes.new_zeros(*match.shape, 4)
    return boxes[image, match.clamp(min=0)]


def total(parts: dict[str, Tensor], loss: LossSettings) -> dict[str, Tensor]:
    """Returns the weighted sum as ``loss`` (with the gradient), and each part (without)."""
    weights = loss.model_dump()
    weighted = sum((weights[name] * part for name, part in parts.items()), start=torch.zeros(()))
    assert isinstance(weighted, Tensor)
    return {"loss": weighted} | {name: part.detach() for name, part in parts.items()}


def dense_step(
    detector: MimicDet, batch: Batch, prepared: Prepared, losses: dict[str, Tensor], assign: AssignSettings
) -> TaskStep:
    """Returns the step of a task that trains MimicDet.

    Objects are assigned by the S-head's rule, on all positions: the refinement module's leaves one position to most
    objects, and one has no order that Rank Mimicking could take over.
    """
    refined, objects = prepared.refined, (batch.boxes, batch.labels, batch.crowd)
    boxes, iou = refined.adjusted_boxes, assign.positive_iou
    match = partial(matching.match_overlapping, boxes, refined.valid, *objects, positive_iou=iou)
    return TaskStep(losses, match, partial(detector.dense_maps_of, refined))
