"""Settings of a run: data, optimiser, loop, and how detections are made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from mimicdet.config.section import Count, Fraction, Natural, NotNegative, Positive, Section


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
    """Training decodes JPEG files at a half, quarter or eighth of their size where that is as large as it needs:
    faster, and a little softer than the full decoding in use."""
    max_faulty_boxes: Fraction = 0.05
    """More than this share of faulty boxes stops training (see `mimicdet check`)."""
    voc_one_based: bool = False
    """VOC coordinates count pixels from 1 (the original PASCAL VOC) instead of 0 (labelImg and most tools)."""
    workers: Natural = 2
    """Processes that read images; the result never depends on it."""

    @field_validator("scale_jitter")
    @classmethod
    def _is_a_range(cls, factors: tuple[float, float]) -> tuple[float, float]:
        if factors[0] > factors[1]:
            raise ValueError(f"should have the smaller factor first: {factors[1]:g} {factors[0]:g}")
        return factors


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
    head_lr_factor: Positive = 1.0
    """The head that ships (S-head, branches of a one-stage detector, Faster R-CNN's second stage) learns at this
    multiple of the learning rate. With AdamW a layer of few inputs moves its output less a step than one of many."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """How the learning rate falls after warm-up: in steps at `milestones`, as half a cosine to zero, or not at all."""
    milestones: tuple[Positive, ...] = (8.0, 11.0)
    """Epochs after which a step schedule multiplies the learning rate by `gamma`, ascending."""
    gamma: Positive = 0.1
    """Factor of each step of a step schedule."""
    warmup_steps: Natural = 1000
    """Optimiser steps over which the learning rate rises linearly."""
    warmup_factor: Fraction = 0.001
    """Where warm-up starts, as a multiple of the learning rate."""
    clip_grad_norm: NotNegative = 0.0
    """Largest gradient norm over all parameters; 0 is no limit."""
    accumulate: Count = 1
    """Batches whose gradients make one optimiser step, as one large batch would; losses are divided by all
    their positive anchors together."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights, which is then evaluated and shipped; 0 is off."""

    @field_validator("milestones")
    @classmethod
    def _ascends(cls, epochs: tuple[float, ...]) -> tuple[float, ...]:
        if list(epochs) != sorted(set(epochs)):
            raise ValueError(f"should ascend: {' '.join(f'{epoch:g}' for epoch in sorted(set(epochs)))}")
        return epochs


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
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Two runs with the same seed, data and settings are the same run."""


class InferenceSettings(Section):
    """From an image to detections; stored with the model."""

    shorter_side: Count = 800
    """Shorter side after resizing, in pixels."""
    longer_side: Count = 1333
    """Longer side at most; the shorter one shrinks along."""
    dense: bool = False
    """Compute MimicDet's S-head everywhere instead of at the best positions only; the detections are the same."""
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
