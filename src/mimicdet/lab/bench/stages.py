"""The parts of one prediction, each as a unit of work that can be timed alone.

B images, H W the padded canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mimicdet.config import InferenceSettings
from mimicdet.data.batch import pad_to_batch
from mimicdet.inference.decode import decode
from mimicdet.inference.detect import sizes_or_none
from mimicdet.inference.fold import FoldedModel
from mimicdet.models.detector import Predictions
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.pyramid import mask_padding

if TYPE_CHECKING:
    from mimicdet.predict import Detector

STAGES = ("backbone", "pyramid", "refinement", "s_head", "decode")


def stages(
    model: MimicDet, images: Tensor, sizes: Tensor, inference: InferenceSettings
) -> dict[str, Callable[[], object]]:
    """Each stage of a prediction on what the stages before it give for ``images``.

    Args:
        model: in evaluation mode, on the device of ``images``. Run this and the stages in inference mode.
        images: (B, 3, H, W) as the model takes them.
        sizes: (B, 2), height and width of each image inside the canvas.
        inference: its ``positions`` for the S-head, and the rest for the stage ``decode``, which includes suppression.

    Returns:
        By the names in ``STAGES``.
    """

    seen, trunk = sizes_or_none(images, sizes), model.trunk

    def backbone() -> dict[int, Tensor]:
        return trunk.backbone(mask_padding(trunk.backbone.normalise(images), seen, 0))

    features = backbone()
    pyramid = trunk.pyramid(features, seen)
    refined = model.refine(images, seen)

    def s_head() -> Predictions:
        return model.predict(refined, top=inference.positions)

    output = s_head()
    return {
        "backbone": backbone,
        "pyramid": lambda: trunk.pyramid(features, seen),
        "refinement": lambda: model.refine_pyramid(pyramid, seen),
        "s_head": s_head,
        "decode": lambda: decode(output, sizes, inference),
    }


def batch_detector(detector: Detector, images: Sequence[Tensor]) -> Callable[[], object]:
    """Detection in resized images (3, h, w) uint8, with the detector's settings as they are, as a unit of work."""
    inference, runner = detector.inference, detector.runner
    return lambda: runner.detect(pad_to_batch(images, runner.divisor), inference)


def stages_of(detector: Detector, images: Sequence[Tensor]) -> dict[str, Callable[[], object]]:
    """The parts of that work; none where the model has others, or is an exported file, which is one piece."""
    runner = detector.runner
    if not isinstance(runner, FoldedModel) or not isinstance(runner.model, MimicDet):
        return {}
    batch, inference = pad_to_batch(images, runner.model.divisor).to(runner.device), detector.inference
    with torch.inference_mode():
        parts = stages(runner.folded(), batch.images, batch.sizes, inference)  # type: ignore[arg-type]
    return {name: torch.inference_mode()(part) for name, part in parts.items()}
