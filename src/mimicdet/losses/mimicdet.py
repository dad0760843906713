"""MimicDet's losses: of the refinement module, of both heads, and the mimic loss between the heads (equation 1).

Sums over boxes, or one value a box, in float32; the task divides by counts over all processes.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from mimicdet.models.s_head import HeadOutput
from mimicdet.ops.boxes import encode_deltas
from mimicdet.ops.precision import full_precision

ClassMimic = Literal["logits", "feature", "both", "centred_logits"]


def objectness_loss(logits: Tensor, positive: Tensor, valid: Tensor) -> Tensor:
    """Returns binary cross-entropy summed over all anchors that are ``valid``, no padding (section 3.2)."""
    loss = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
    return (loss * valid).sum()


def box_loss(
    deltas: Tensor, targets: Tensor, boxes: Tensor, positive: Tensor, *, std: tuple[float, float, float, float]
) -> Tensor:
    """Returns L1 between predicted deltas and those from ``boxes`` to ``targets``, summed over positives.

    Args:
        deltas, targets, boxes: (..., 4).
        positive: (...) bool.
    """
    wanted = encode_deltas(targets, boxes, std=std)
    # where, not a product: the targets of negatives mean nothing and may be huge
    return (deltas - wanted).abs().where(positive[..., None], deltas.new_zeros(())).sum()


def class_losses(logits: Tensor, classes: Tensor) -> Tensor:
    """Returns cross-entropy (...) of logits (..., K+1) and classes (...) in 0..K; 0 for ignored boxes, below 0."""
    flat = F.cross_entropy(logits.flatten(0, -2), classes.flatten(), reduction="none", ignore_index=-1)
    return flat.reshape(classes.shape)


def cosine_distances(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns 1 - cos of each pair of rows, (N, D) twice -> (N,) in 0..2, float32 or better; 1 for a row of zeros."""
    return 1 - F.cosine_similarity(full_precision(teacher), full_precision(student), dim=-1)


def class_mimic_distances(kind: ClassMimic, teacher: HeadOutput, student: HeadOutput) -> Tensor:
    """Returns the classification path's distances (N,) of the heads on the same N boxes: 0..2, 0..4 for ``both``.

    Args:
        kind: mimic the K+1 logits (section 3.3), the last feature (Table 3's ablations), both, or the logits less their
            mean over the classes, which softmax does not see.
    """
    features = (teacher.class_feature, student.class_feature)
    if kind == "feature":
        return cosine_distances(*features)
    if kind == "both":
        return cosine_distances(*features) + cosine_distances(teacher.logits, student.logits)
    centred = kind == "centred_logits"
    heads = (teacher.logits, student.logits)
    return cosine_distances(*(l - l.mean(-1, keepdim=True) if centred else l for l in heads))
