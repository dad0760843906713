"""The mimic loss: one minus cosine between T-head and S-head features of the same boxes (equation 1)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from mimicdet.ops.precision import full_precision

ClassMimic = Literal["logits", "feature", "both", "centred_logits"]


def cosine_distances(teacher: Tensor, student: Tensor) -> Tensor:
    """1 - cos of each pair of rows, (N, D) and (N, D) -> (N,) in 0..2, in float32 or better.

    A row of zeros has cosine 0 with anything.
    """
    return 1 - F.cosine_similarity(full_precision(teacher), full_precision(student), dim=-1)


def class_mimic_distances(
    kind: ClassMimic,
    *,
    teacher_logits: Tensor,
    student_logits: Tensor,
    teacher_feature: Tensor,
    student_feature: Tensor,
) -> Tensor:
    """The classification path's distances (N,), 0..2, or 0..4 for ``both``.

    Args:
        kind: mimic the K+1 logits (section 3.3), the last feature (Table 3's ablations), both, or the logits less their
            mean over the classes, which softmax does not see.
    """
    if kind == "feature":
        return cosine_distances(teacher_feature, student_feature)
    if kind == "both":
        return cosine_distances(teacher_feature, student_feature) + cosine_distances(teacher_logits, student_logits)
    if kind == "centred_logits":
        teacher_logits = teacher_logits - teacher_logits.mean(-1, keepdim=True)
        student_logits = student_logits - student_logits.mean(-1, keepdim=True)
    return cosine_distances(teacher_logits, student_logits)
