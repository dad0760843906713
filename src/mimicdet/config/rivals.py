"""Settings of MimicDet's rivals, students and teachers: one class a family, with what that family reads.

``Model`` is what is built and shipped, ``Learning`` how it is trained. Defaults are as published, apart from the box
losses' weights, which the presets give.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mimicdet.config.distill import DistillSettings, evaluated_t_head_is_there, teachers_fit_the_task
from mimicdet.config.run import FAMILY, DataSettings, InferenceSettings, OptimSettings, TrainSettings, TrunkSettings
from mimicdet.config.section import Count, Fraction, Natural, NotNegative, Positive, Section, Share

FocalAlpha = Annotated[Fraction, Field(description="Positives have this weight in the focal loss, negatives the rest.")]
_GAMMA = "The focal loss is multiplied by this power of the error, so that easy examples count less."
FocalGamma = Annotated[NotNegative, Field(description=_GAMMA)]
ClassWeight = Annotated[NotNegative, Field(description="The focal loss, which trains the scores, has this weight.")]
OverlapWeight = Annotated[
    NotNegative, Field(description="The generalised IoU loss of the boxes has this weight (ATSS and GFL published 2).")
]
CenternessWeight = Annotated[NotNegative, Field(description="The centerness loss has this weight.")]
_CANDIDATES = "This many anchors of each level, nearest to an object's centre, may become positive."
Candidates = Annotated[Count, Field(description=_CANDIDATES)]


class BranchSettings(TrunkSettings):
    """The dense rivals' heads, which these settings describe, are branches of convolutions on every level."""

    head_init: Literal["gaussian", "he"] = "he"
    """The head's branches start with weights of sigma 0.01 (`gaussian`, as published) or by He's rule. Four layers of
    sigma 0.01 let a thousandth of a 64 channels wide signal through."""
    head_groups: Natural = 32
    """The head's convolutions are normalised in this many groups of channels. FCOS, ATSS and GFL published 32,
    RetinaNet 0, which is no normalisation."""

    @model_validator(mode="after")
    def _groups_divide_the_channels(self) -> Self:
        groups, channels = self.head_groups, self.pyramid_channels
        if groups and channels % groups:
            raise ValueError(f"model.head_groups {groups} must divide model.pyramid_channels {channels}")
        if groups and groups == channels:  # on a level of one cell a group would be a single value
            raise ValueError(f"model.head_groups {groups} must be less than model.pyramid_channels {channels}")
        return self


class DenseSettings(Section):
    """Holds what runs of the dense rivals have in common; each gives ``model`` and ``one_stage`` of its own."""

    Model: ClassVar[type[TrunkSettings]]
    task: Literal["detect", "distill"] = "detect"
    """The task `detect` trains the detector alone; `distill` also lets it learn from frozen teachers."""
    model: TrunkSettings
    one_stage: Section
    distill: DistillSettings = DistillSettings()
    data: DataSettings = DataSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    inference: InferenceSettings = InferenceSettings()
    _teachers, _t_head = teachers_fit_the_task, evaluated_t_head_is_there


class RetinaNetSettings(DenseSettings):
    """Describes a run of RetinaNet (Lin et al., ICCV 2017)."""

    class Model(BranchSettings):
        """RetinaNet has a backbone, a pyramid, and two branches of convolutions on every level."""

        family: Annotated[Literal["retinanet"], FAMILY] = "retinanet"

    class Learning(Section):
        """RetinaNet matches anchors by overlap, and learns boxes by L1."""

        positive_iou: Share = 0.5
        """An anchor is positive from this IoU with an object on; so is each object's best anchor."""
        negative_iou: Fraction = 0.4
        """An anchor is background below this IoU with all objects; those in between learn nothing."""
        focal_alpha: FocalAlpha = 0.25
        focal_gamma: FocalGamma = 2.0
        classification: ClassWeight = 1.0
        boxes: NotNegative = 1.0
        """The L1 loss of the boxes' deltas has this weight."""

        @model_validator(mode="after")
        def _thresholds_ascend(self) -> Self:
            low, high = self.negative_iou, self.positive_iou
            if low > high:
                raise ValueError(f"one_stage.negative_iou {low} must not be above one_stage.positive_iou {high}")
            return self

    model: Model = Model()
    one_stage: Learning = Learning()


class FcosSettings(DenseSettings):
    """Describes a run of FCOS (Tian et al., ICCV 2019)."""

    class Model(BranchSettings):
        """FCOS has a backbone, a pyramid, and two branches of convolutions on every level, without anchors."""

        family: Annotated[Literal["fcos"], FAMILY] = "fcos"

    class Learning(Section):
        """FCOS takes positions near an object's centre as positive, and learns how central they are."""

        center_radius: Positive = 1.5
        """A position is positive within this many cells of an object's centre."""
        focal_alpha: FocalAlpha = 0.25
        focal_gamma: FocalGamma = 2.0
        classification: ClassWeight = 1.0
        boxes: OverlapWeight = 1.0
        quality: CenternessWeight = 1.0

    model: Model = Model()
    one_stage: Learning = Learning()


class AtssSettings(DenseSettings):
    """Describes a run of ATSS (Zhang et al., CVPR 2020)."""

    class Model(BranchSettings):
        """ATSS has a backbone, a pyramid, and two branches of convolutions on every level, with one anchor a cell."""

        family: Annotated[Literal["atss"], FAMILY] = "atss"

    class Learning(Section):
        """ATSS chooses an object's positive anchors by the statistics of its own overlaps."""

        candidates: Candidates = 9
        focal_alpha: FocalAlpha = 0.25
        focal_gamma: FocalGamma = 2.0
        classification: ClassWeight = 1.0
        boxes: OverlapWeight = 1.0
        quality: CenternessWeight = 1.0

    model: Model = Model()
    one_stage: Learning = Learning()


class GflSettings(DenseSettings):
    """Describes a run of GFL (Li et al., NeurIPS 2020)."""

    class Model(BranchSettings):
        """GFL has a backbone, a pyramid, and two branches of convolutions on every level; boxes are distributions."""

        family: Annotated[Literal["gfl"], FAMILY] = "gfl"

    class Learning(Section):
        """GFL chooses positives as ATSS does, and its scores predict the IoU of the box."""

        candidates: Candidates = 9
        focal_gamma: FocalGamma = 2.0
        classification: ClassWeight = 1.0
        boxes: OverlapWeight = 1.0
        distribution: NotNegative = 0.25
        """The distribution focal loss has this weight."""

    model: Model = Model()
    one_stage: Learning = Learning()


class FasterRcnnSettings(Section):
    """Describes a run of Faster R-CNN (Ren et al., NeurIPS 2015; with a pyramid, Lin et al., CVPR 2017)."""

    class Model(TrunkSettings):
        """Faster R-CNN has a backbone, a pyramid, proposals, and a head that looks at each proposal."""

        family: Annotated[Literal["faster_rcnn"], FAMILY] = "faster_rcnn"
        head_features: Count = 1024
        """The head describes each proposal by this many features."""

    task: Literal["detect"] = "detect"
    """The task `detect` trains the detector; Faster R-CNN has no other."""
    model: Model = Model()
    data: DataSettings = DataSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    inference: InferenceSettings = InferenceSettings()
    _t_head = evaluated_t_head_is_there
