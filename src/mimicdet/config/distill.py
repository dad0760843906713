"""Settings of what a student takes over from frozen teachers."""

from typing import Annotated, Any, Literal

from pydantic import model_validator

from mimicdet.config.section import Count, NotNegative, Positive, Section

_WEIGHS_A_LOSS = "weighs a loss"
LossWeight = Annotated[NotNegative, _WEIGHS_A_LOSS]
"""The type of the settings that weigh a loss; ``mimicdet.tasks.distill`` has a loss by the name of each."""


class DistillSettings(Section):
    """A student takes over from frozen teachers what these settings say, with `task: distill`.

    Losses of weight 0 are not computed.
    """

    teachers: tuple[str, ...] = ()
    """The teachers are model folders, run folders of `task: mimic` (their T-head teaches), or files of torchvision's
    detection weights. On a command line --teacher names them too. The losses of several are averaged."""
    trust_teacher: bool = False
    """Training starts although the teacher finds nothing in the sample that it is tried on."""
    check_images: Count = 32
    """A teacher is tried on this many images before training."""
    teacher_scale: Positive = 1.0
    """The teacher sees each image at this multiple of the student's size."""
    assignment: Literal["teacher", "student"] = "teacher"
    """The rule of the teacher or of the student says which positions belong to an object. The rules differ between
    families and between pyramids. The student's serves where `teacher_scale` is not 1 (unless MimicDet teaches), and
    with two-stage teachers."""
    rank: LossWeight = 4.0
    """Rank Mimicking has this weight in the loss."""
    rank_which: Literal["classification", "localisation", "both"] = "both"
    """Rank Mimicking ranks an object's positives by their scores, by the IoUs of their boxes, or by each in turn
    (summed)."""
    rank_score: Literal["sigmoid", "logit"] = "sigmoid"
    """Rank Mimicking compares scores in 0..1 (`sigmoid`) or the logits that they are made of."""
    imitation: LossWeight = 1.5
    """Prediction-guided Feature Imitation has this weight in the loss. 1.5 is published, for COCO; 12 taught more on a
    small set with a short schedule (docs/distillation.md)."""
    whole_map: LossWeight = 0.0
    """Imitating all cells of a feature map alike (FitNets) has this weight in the loss."""
    correlation: LossWeight = 0.0
    """Imitating feature maps up to scale and shift of each channel (PKD) has this weight in the loss."""
    soft_labels: LossWeight = 0.0
    """The teacher's scores as targets have this weight in the loss."""
    cross: LossWeight = 0.0
    """CrossKD has this weight in the loss. The student's features pass through the last convolution of the teacher's
    head, and what comes out is compared with what the teacher itself says."""
    roi_samples: Count = 128
    """A two-stage teacher looks at this many boxes of an image."""


def _check(settings: Any) -> Any:
    task, distill = settings.task, settings.distill
    weights = [name for name, field in DistillSettings.model_fields.items() if _WEIGHS_A_LOSS in field.metadata]
    if (task == "distill") != bool(distill.teachers):
        raise ValueError("distill.teachers are for task 'distill', which needs one at least; give both or none")
    changed = [key for key, field in DistillSettings.model_fields.items() if getattr(distill, key) != field.default]
    if task != "distill" and changed:
        raise ValueError(f"distill.{changed[0]} has no meaning for task '{task}'; use task 'distill'")
    if task == "distill" and not any(getattr(distill, name) for name in weights):
        raise ValueError(f"task 'distill' needs a loss: give one of distill.{', distill.'.join(weights)} a weight")
    return settings


def _check_t_head(settings: Any) -> Any:
    if settings.train.eval_teacher and settings.task != "mimic":
        raise ValueError(f"train.eval_teacher needs a T-head, and task '{settings.task}' has none; leave it out")
    return settings


evaluated_t_head_is_there: Any = model_validator(mode="after")(_check_t_head)
"""The validator of every family: only ``task: mimic`` has a T-head to evaluate."""

teachers_fit_the_task: Any = model_validator(mode="after")(_check)
"""The validator of every family that can be a student: ``distill`` is for the task of that name."""
