"""Lessons of a two-stage teacher: it scores, moves and describes the student's own boxes.

N boxes chosen in a batch: the positives, and the student's best guesses besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mimicdet.assign import sample_some
from mimicdet.config import DistillSettings
from mimicdet.data.batch import Batch
from mimicdet.losses.feature_imitation import (
    correlation_loss,
    feature_difference,
    imitation_loss,
    prediction_difference,
    whole_map_loss,
)
from mimicdet.losses.soft_labels import soft_label_divergences
from mimicdet.models.dense import DenseMaps
from mimicdet.ops.boxes import clip_to_sizes, iou_of_pairs
from mimicdet.ops.precision import full_precision
from mimicdet.tasks.normalise import mean_over_processes
from mimicdet.tasks.sites import Positives
from mimicdet.teachers.roi import RoiTeacher


class RoiLesson(NamedTuple):
    """A two-stage teacher."""

    teacher: RoiTeacher


def roi_losses(
    batch: Batch, match: Tensor, maps: DenseMaps, teacher: RoiTeacher, settings: DistillSettings,
    weights: dict[str, float], adapter: nn.Module, rank: Callable[[Positives], Tensor],
) -> dict[str, Tensor]:  # fmt: skip
    """The losses by name, and how far the two agree.

    Args:
        match: (B, A) the student's assignment.
        weights: of the losses that are wanted.
        adapter: from the student's pyramid width to the teacher's features.
        rank: makes the rank loss of positives.
    """
    known = teacher.known(maps.logits.device)
    image, position = _chosen(maps, match, known, settings.roi_samples)
    logits, boxes = maps.logits[image, position], maps.boxes[image, position]
    index = match[image, position]
    positive = index >= 0
    label = logits.detach().masked_fill(~known, -torch.inf).argmax(1)
    m = batch.labels.shape[1]
    if m:
        label = torch.where(positive, batch.labels[image, index.clamp(min=0)], label)
    positive = positive & known[label]
    clipped = clip_to_sizes(maps.boxes.detach(), batch.sizes)[image, position]
    view = teacher.look(batch.images, batch.sizes, clipped, image, label)
    found: dict[str, Tensor] = {}
    rows = positive.nonzero().squeeze(1)
    if "rank" in weights:
        wanted = batch.boxes[image[rows], index[rows]] if m else boxes[rows]
        at = label[rows, None]
        found["rank"] = rank(
            Positives(
                image[rows] * m + index[rows], view.logits[rows].gather(1, at)[:, 0], logits[rows].gather(1, at)[:, 0],
                iou_of_pairs(view.boxes[rows], wanted), iou_of_pairs(boxes[rows], wanted),
            )
        )  # fmt: skip
    if "soft_labels" in weights:
        losses = soft_label_divergences(view.logits, logits, temperature=settings.soft_temperature)
        count = mean_over_processes(positive.sum().float()[None])[0]
        found["soft_labels"] = losses.where(known, 0).sum() / count
    if {"imitation", "whole_map", "correlation"} & weights.keys():
        ours = full_precision(adapter(_features_at(maps, image, position)))
        theirs, ours = (side.T[None, :, :, None] for side in (view.features, ours))  # as one level of N cells
        difference, valid = feature_difference(theirs, ours), torch.ones_like(image, dtype=torch.bool)[None]
        if "imitation" in weights:
            scores = (side.sigmoid()[None, :, None] for side in (view.logits, logits))
            found["imitation"] = imitation_loss(
                prediction_difference(*scores, known=known), difference, valid, form=settings.imitation_form,
                detach=settings.imitation_detach, normalise=settings.imitation_normalise,
            )  # fmt: skip
        if "whole_map" in weights:
            found["whole_map"] = whole_map_loss(difference, valid)
        if "correlation" in weights:
            found["correlation"] = correlation_loss(theirs, ours, valid)
    with torch.no_grad():
        lead = (view.logits.sigmoid() - logits.sigmoid())[rows].gather(1, label[rows, None])
        found["diag/teacher_score_lead"] = lead.mean()
    return found


def _chosen(maps: DenseMaps, match: Tensor, known: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(N,) images and positions: at most ``count`` an image, positives first, then by the student's best score."""
    with torch.no_grad():
        best: Any = maps.logits.masked_fill(~known, -torch.inf).amax(-1).sigmoid()
        kept = sample_some(maps.valid, -(best + 2 * (match >= 0)), count)
    image, position = kept.nonzero().unbind(1)
    return image, position


def _features_at(maps: DenseMaps, image: Tensor, position: Tensor) -> Tensor:
    """(N, C) the pyramid's feature in each position's cell."""
    cells = torch.cat([feature.flatten(2) for feature in maps.features], dim=2).transpose(1, 2)  # (B, cells, C)
    return cells[image, torch.div(position, maps.per_cell, rounding_mode="floor")].float()
