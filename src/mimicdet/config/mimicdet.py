"""Settings of MimicDet (Lu et al., ECCV 2020)."""

from typing import Annotated, Literal, Self

from pydantic import model_validator

from mimicdet.config.distill import DistillSettings, evaluated_t_head_is_there, teachers_fit_the_task
from mimicdet.config.run import FAMILY, DataSettings, InferenceSettings, OptimSettings, TrainSettings, TrunkSettings
from mimicdet.config.section import Count, Fraction, NotNegative, Section, Share, require_consecutive


class TeacherSettings(Section):
    """The T-head is built as these settings say, and only to train with `task: mimic`."""

    variant: Literal["dual", "heavy", "light"] = "dual"
    """The T-head has two paths (`dual`, the paper's), or one path with (`heavy`) or without (`light`) four convolutions
    (Table 3)."""
    levels: tuple[int, ...] = (2, 3, 4, 5, 6)
    """The T-head pools from these pyramid levels, one for each of `model.levels`; (2..6) is the staggered pyramid
    (Table 4)."""
    conv_channels: Count = 256
    """The T-head's 3x3 convolutions have this many channels."""
    backbone: Literal["shared", "separate"] = "shared"
    """The T-head pools from the detector's backbone and pyramid (the paper), or from a second, equally pre-trained
    pair. That pair learns from the T-head's losses alone, at about twice the training time (Table 5)."""

    @model_validator(mode="after")
    def _levels_are_a_run(self) -> Self:
        require_consecutive("teacher.levels", self.levels)
        return self


class AssignSettings(Section):
    """Anchors and proposals learn what these settings assign to them."""

    center_fraction: Share = 0.3
    """An anchor is positive when its centre lies in the object's rectangle shrunk to this fraction."""
    ensure_match: bool = True
    """An object too small to hold an anchor's centre in that rectangle gets the nearest one inside the object, if
    any."""
    proposal_nms: Fraction = 0.8
    """The class-agnostic suppression that makes proposals of the adjusted boxes has this IoU threshold; at 1 all stay,
    as in use."""
    proposals: Count = 2000
    """Training keeps this many proposals of an image."""
    positive_iou: Share = 0.6
    """A proposal is positive from this IoU with an object on."""
    t_samples: Count = 128
    """This many boxes of an image train the T-head; the mimic loss uses the same ones."""
    t_positive_fraction: Fraction = 0.25
    """At most this share of them is positive, and of the S-head's where it learns from a balanced choice."""
    s_class_samples: Count = 128
    """This many proposals of an image train the S-head's classification."""
    s_class_choice: Literal["hardest", "balanced"] = "hardest"
    """The S-head's classification learns from the proposals with the highest classification loss (section 3.3), or
    from a random choice as the T-head's (ours)."""
    s_box_samples: Count = 64
    """At most this many random positives of an image train the S-head's box regression."""
    s_box_normalizer: Literal["samples", "positives"] = "samples"
    """The S-head's box loss is divided by its classification samples, of which the paper has as many as of the T-head's
    boxes, or by the positives. Where `t_samples` are fewer, `loss.s_boxes` makes a positive count as much as with
    the T-head."""


class MimicSettings(Section):
    """The S-head takes over from the T-head what these settings say (equation 1)."""

    classification: Literal["logits", "feature", "both", "centred_logits"] = "logits"
    """The classification path mimics the logits (section 3.3), the last feature, both, or logits less their mean."""
    negatives: bool = True
    """Negatives of the sampled boxes are mimicked too."""
    detach_teacher: bool = True
    """No gradient of the mimic loss reaches the T-head."""
    weighting: Literal["none", "prediction"] = "none"
    """Each box's distances weigh alike, or by how far the two heads' scores are apart, as in PFI, with mean 1
    (ours)."""


class LossSettings(Section):
    """Each part of the loss has a weight; a part of weight 0 is still computed and logged, without gradient."""

    refinement_objectness: NotNegative = 1.0
    """The refinement module's cross-entropy, which says which positions lie on an object, has this weight."""
    refinement_boxes: NotNegative = 1.0
    """The L1 loss of the refinement module's deltas on positive anchors has this weight."""
    s_classification: NotNegative = 1.0
    """The S-head's cross-entropy on its classification samples has this weight."""
    s_boxes: NotNegative = 1.0
    """The L1 loss of the S-head's deltas on positive proposals has this weight."""
    t_classification: NotNegative = 1.0
    """The T-head's cross-entropy on its sampled proposals has this weight."""
    t_boxes: NotNegative = 1.0
    """The L1 loss of the T-head's deltas on its positive proposals has this weight."""
    mimic_classification: NotNegative = 1.0
    """The distance of S-head and T-head on the classification path has this weight."""
    mimic_boxes: NotNegative = 1.0
    """The distance of S-head and T-head on the regression path has this weight."""
    mimic_rank: NotNegative = 0.0
    """Rank Mimicking of the T-head over the sampled boxes of each object, by scores and by IoUs, has this weight
    (ours)."""
    mimic_soft_labels: NotNegative = 0.0
    """The divergence of the S-head's class scores from the T-head's on the mimicked boxes has this weight (ours)."""


class MimicDetSettings(Section):
    """Describes a run of MimicDet (Lu et al., ECCV 2020)."""

    class Model(TrunkSettings):
        """MimicDet has a backbone, a pyramid, a refinement module and an S-head."""

        family: Annotated[Literal["mimicdet"], FAMILY] = "mimicdet"
        alignment: Literal["guided", "deformable", "conv"] = "guided"
        """The S-head's alignment layer has offsets from the box deltas, from the features, or none (Table 2)."""
        offsets: Literal["learned", "box_grid", "box_grid+learned"] = "box_grid+learned"
        """A guided layer gets its offsets from a micro-network (the paper), from points spread evenly over the adjusted
        box, or from the micro-network added to that grid."""
        offset_grad: Fraction = 0.0
        """This share of the gradient flows through the offsets back into the refinement module."""
        kernel_size: Literal[1, 3, 5, 7] = 5
        """The alignment layer has this kernel on all levels but the finest."""
        finest_kernel_size: Literal[1, 3, 5, 7] = 3
        """The alignment layer has this kernel on the finest level, and weights of its own there if it differs."""
        head_channels: Count = 256
        """The alignment layer gives this many channels."""
        head_features: Count = 1024
        """The two features that mimic the T-head's are this wide; the T-head's are as wide."""
        head_paths: Literal["dual", "single"] = "dual"
        """Classification and box regression have a feature each (`dual`), or share one (Table 3's light and heavy
        rows)."""
        head_init: Literal["gaussian", "he"] = "he"
        """The S-head's alignment and feature layers start with weights of sigma 0.01 (`gaussian`, as published) or by
        He's rule. Four layers of sigma 0.01 let a thousandth of a 64 channels wide signal through."""

        @model_validator(mode="after")
        def _only_guided_offsets_have_a_gradient(self) -> Self:
            if self.offset_grad and self.alignment != "guided":
                needs = "is for the offsets of model.alignment 'guided'; leave it out"
                raise ValueError(f"model.offset_grad {self.offset_grad} {needs}")
            return self

    task: Literal["mimic", "detect", "distill"] = "mimic"
    """The task `mimic` trains S-head and T-head together; `detect` trains the detector alone, without a T-head;
    `distill` trains it alone with frozen teachers."""
    model: Model = Model()
    teacher: TeacherSettings = TeacherSettings()
    assign: AssignSettings = AssignSettings()
    mimic: MimicSettings = MimicSettings()
    loss: LossSettings = LossSettings()
    distill: DistillSettings = DistillSettings()
    data: DataSettings = DataSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    inference: InferenceSettings = InferenceSettings()
    _teachers, _t_head = teachers_fit_the_task, evaluated_t_head_is_there

    @model_validator(mode="after")
    def _heads_match(self) -> Self:
        ours, theirs = list(self.model.levels), list(self.teacher.levels)
        if self.task == "mimic" and len(theirs) != len(ours):
            raise ValueError(f"teacher.levels {theirs} must name one level for each of model.levels {ours}")
        if self.task == "mimic" and theirs[0] not in (ours[0], ours[0] - 1):
            raise ValueError(f"teacher.levels {theirs} must start at the level of model.levels {ours} or one below")
        variant, paths = self.teacher.variant, "dual" if self.teacher.variant == "dual" else "single"
        if self.task == "mimic" and paths != self.model.head_paths:
            needs = f"needs model.head_paths {paths!r}: both heads split features or neither"
            raise ValueError(f"teacher.variant {variant!r} {needs}")
        if self.model.head_paths == "single" and self.mimic.classification in ("feature", "both"):
            way_out = "use 'logits' or 'centred_logits', or set loss.mimic_classification to 0 for the feature alone"
            given = f"mimic.classification {self.mimic.classification!r}"
            raise ValueError(f"{given} counts the one feature of model.head_paths 'single' twice; {way_out}")
        return self
