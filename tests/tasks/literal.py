"""The training step of sections 3.2 to 3.4 and 4.1 in one pass: box by box, the S-head with gradient everywhere."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from mimicdet.config import AssignSettings
from mimicdet.data.batch import Batch
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.s_head import HeadOutput
from mimicdet.ops.boxes import decode_deltas
from mimicdet.tasks.detect import DetectTask
from mimicdet.tasks.mimic import MimicTask
from mimicdet.tasks.student import Prepared, prepare


def encoded(target: Tensor, box: Tensor, std: tuple[float, ...]) -> Tensor:
    """Faster R-CNN's deltas of one box."""
    tx1, ty1, tx2, ty2 = target.tolist()
    bx1, by1, bx2, by2 = box.tolist()
    bw, bh = bx2 - bx1, by2 - by1
    raw = (
        ((tx1 + tx2) - (bx1 + bx2)) / 2 / bw,
        ((ty1 + ty2) - (by1 + by2)) / 2 / bh,
        math.log((tx2 - tx1) / bw),
        math.log((ty2 - ty1) / bh),
    )
    return torch.tensor([value / s for value, s in zip(raw, std, strict=True)], dtype=torch.float64)


def total(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum() if terms else torch.zeros((), dtype=torch.float64)


def student_terms(
    detector: MimicDet, batch: Batch, prepared: Prepared, head: HeadOutput, assign: AssignSettings
) -> dict[str, list[Tensor]]:
    """The single losses of refinement module and S-head; ``head`` is dense."""
    refined, proposals, targets = prepared.refined, prepared.proposals, prepared.targets
    k = detector.num_classes
    found: dict[str, list[Tensor]] = {
        name: [] for name in ("objectness", "refinement_boxes", "classification", "boxes")
    }
    for i in range(len(batch.images)):
        for a in range(refined.objectness.shape[1]):
            if refined.valid[i, a]:
                match = int(prepared.anchor_match[i, a])
                logit = refined.objectness[i, a]
                found["objectness"].append(-F.logsigmoid(logit if match >= 0 else -logit))
                if match >= 0:
                    wanted = encoded(batch.boxes[i, match], refined.places.anchors[a], (1, 1, 1, 1))
                    found["refinement_boxes"].append((refined.deltas[i, a] - wanted).abs().sum())
        losses, positives = [], []
        for r, position in enumerate(proposals.positions[i].tolist()):
            target = int(targets.classes[i, r])
            if target >= 0:
                loss = -head.logits[i, position].log_softmax(-1)[target]
                losses.append((float(loss.detach()), r, loss))
                if target < k:
                    positives.append((float(prepared.keys[i, r, 0]), r, position))
        losses.sort(key=lambda entry: -entry[0])
        if assign.s_class_choice == "hardest":
            found["classification"] += [loss for _, _, loss in losses[: assign.s_class_samples]]
        else:
            drawn = {r for j, r in balanced(prepared, assign, k, assign.s_class_samples) if j == i}
            found["classification"] += [loss for _, r, loss in losses if r in drawn]
        for _, r, position in sorted(positives)[: assign.s_box_samples]:
            object_box = batch.boxes[i, targets.match[i, r]]
            wanted = encoded(object_box, proposals.boxes[i, r], (0.1, 0.1, 0.2, 0.2))
            found["boxes"].append((head.deltas[i, position] - wanted).abs().sum())
    return found


def balanced(prepared: Prepared, assign: AssignSettings, k: int, count: int) -> list[tuple[int, int]]:
    """(image, proposal) of so many boxes of each image, as they are drawn for the T-head."""
    chosen = []
    for i, classes in enumerate(prepared.targets.classes.tolist()):
        keyed = [(float(prepared.keys[i, r, 1]), r, target) for r, target in enumerate(classes)]
        positives = [r for _, r, target in sorted(keyed) if 0 <= target < k]
        negatives = [r for _, r, target in sorted(keyed) if target == k]
        positives = positives[: int(count * assign.t_positive_fraction)]
        rows = positives + negatives[: count - len(positives)]
        chosen += [(i, r) for r in sorted(rows)]
    return chosen


def distance(teacher: Tensor, student: Tensor) -> Tensor:
    return 1 - (teacher * student).sum() / ((teacher**2).sum().sqrt() * (student**2).sum().sqrt())


def class_distance(kind: str, teacher: HeadOutput, student: HeadOutput) -> Tensor:
    t, s = teacher.logits, student.logits
    if kind == "centred_logits":
        return distance(t - t.mean(), s - s.mean())
    logits, feature = distance(t, s), distance(teacher.class_feature, student.class_feature)
    return {"logits": logits, "feature": feature, "both": logits + feature}[kind]


def literal_loss(task: DetectTask | MimicTask, batch: Batch) -> dict[str, Tensor]:
    """``loss`` and its parts, all with gradient."""
    detector, assign = task.detector, task.assign
    prepared = prepare(detector, batch, assign)
    refined, proposals, targets = prepared.refined, prepared.proposals, prepared.targets
    dense = detector.s_head.dense(refined.pyramid.levels, refined.deltas)
    terms = student_terms(detector, batch, prepared, dense, assign)
    positives = max(len(terms["refinement_boxes"]), 1)
    samples = max(len(terms["classification"]), 1)
    boxes = samples if assign.s_box_normalizer == "samples" else max(len(terms["boxes"]), 1)
    parts = {
        "refinement_objectness": total(terms["objectness"]) / positives,
        "refinement_boxes": total(terms["refinement_boxes"]) / positives,
        "s_classification": total(terms["classification"]) / samples,
        "s_boxes": total(terms["boxes"]) / boxes,
    }
    if isinstance(task, MimicTask):
        parts |= _teacher_parts(task, batch, prepared, dense)
    weights: dict[str, Any] = task.loss.model_dump()
    loss = total([weights[name] * part for name, part in parts.items()])
    assert targets.match.shape == proposals.valid.shape
    return {"loss": loss} | parts


def _teacher_parts(task: MimicTask, batch: Batch, prepared: Prepared, dense: HeadOutput) -> dict[str, Tensor]:
    detector, refined, k = task.detector, prepared.refined, task.detector.num_classes
    levels = list(refined.pyramid.levels)
    strides = [2**l for l in detector.trunk.pyramid.level_numbers]
    if task.finer_level is not None:
        levels = [task.finer_level(refined.pyramid, batch.sizes), *levels[:-1]]
        strides = [2 ** (l - 1) for l in detector.trunk.pyramid.level_numbers]
    classification, boxes, class_mimic, box_mimic, soft, apart = [], [], [], [], [], []
    ranked: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}  # by object: scores and IoUs of T-head, S-head
    for i, r in balanced(prepared, task.assign, k, task.assign.t_samples):
        position = int(prepared.proposals.positions[i, r])
        box, target = prepared.proposals.boxes[i, r], int(prepared.targets.classes[i, r])
        out = task.t_head(levels, strides, box[None], torch.tensor([i]), refined.places.level[position : position + 1])
        teacher = HeadOutput(*(field[0] for field in out))
        classification.append(-teacher.logits.log_softmax(-1)[target])
        if target < k:
            wanted = encoded(batch.boxes[i, prepared.targets.match[i, r]], box, (0.1, 0.1, 0.2, 0.2))
            boxes.append((teacher.deltas - wanted).abs().sum())
        student = HeadOutput(*(field[i, position] for field in dense))
        if task.mimic.detach_teacher:
            teacher = HeadOutput(*(field.detach() for field in teacher))
        scores = [head.logits.softmax(-1)[:-1] for head in (teacher, student)]
        if target < k:
            match = int(prepared.targets.match[i, r])
            moved = [decode_deltas(head.deltas, box, std=(0.1, 0.1, 0.2, 0.2)) for head in (teacher, student)]
            overlaps = [box_iou(m[None], batch.boxes[i, match][None].to(m.dtype))[0, 0] for m in moved]
            pairs = ranked.setdefault((i, match), [])
            pairs.append((torch.stack([s[target] for s in scores]), torch.stack(overlaps)))
        if target < k or task.mimic.negatives:
            apart.append((scores[0] - scores[1]).square().mean().detach())
            class_mimic.append(class_distance(task.mimic.classification, teacher, student))
            box_mimic.append(distance(teacher.box_feature, student.box_feature))
            p, q = (head.logits.softmax(-1) for head in (teacher, student))
            soft.append((p * (p / q).log()).sum())
    sampled, mimicked = max(len(classification), 1), max(len(class_mimic), 1)

    def weighted(distances: list[Tensor]) -> list[Tensor]:
        if task.mimic.weighting == "none" or not apart:
            return distances
        mean = total(apart) / len(apart)
        return [d * a / mean for d, a in zip(distances, apart, strict=True)]

    return {
        "t_classification": total(classification) / sampled,
        "t_boxes": total(boxes) / sampled,
        "mimic_classification": total(weighted(class_mimic)) / mimicked,
        "mimic_boxes": total(weighted(box_mimic)) / mimicked,
        "mimic_rank": _rank(batch, ranked),
        "mimic_soft_labels": total(weighted(soft)) / mimicked,
    }


def _rank(batch: Batch, ranked: dict[tuple[int, int], list[tuple[Tensor, Tensor]]]) -> Tensor:
    """KL of the softmax over each object's boxes, mean over an image's objects, then over images."""
    images = []
    for i in range(len(batch.labels)):
        objects = int(((batch.labels[i] >= 0) & ~batch.crowd[i]).sum())
        found = []
        for (image, _), pairs in ranked.items():
            for kind in (0, 1) if image == i else ():  # scores, IoUs
                teacher, student = torch.stack([pair[kind] for pair in pairs]).unbind(1)
                p = teacher.softmax(0)
                found.append((p * (p.log() - student.log_softmax(0))).sum())
        images.append(total(found) / max(objects, 1))
    return total(images) / len(images)
