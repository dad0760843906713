"""The parts of one prediction, each as a unit of work that can be timed alone.

B images, H W the padded canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mimicdet.data.batch import pad_to_batch
from mimicdet.inference.decode import decode
from mimicdet.inference.detect import sizes_or_none
from mimicdet.inference.folded import FoldedModel
from mimicdet.models.dense import DenseOutput
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.pyramid import mask_padding

if TYPE_CHECKING:
    from mimicdet.predict import Detector

STAGES = ("backbone", "pyramid", "refinement", "s_head", "decode")


def stages(
    model: MimicDet, images: Tensor, sizes: Tensor, *, top: int = 1000, score_threshold: float = 0.05
) -> dict[str, Callable[[], object]]:
    """Each stage of a prediction on what the stages before it give for ``images``.

    Args:
        model: in evaluation mode, on the device of ``images``. Run this and the stages in inference mode.
        images: (B, 3, H, W) as the model takes them.
        sizes: (B, 2), height and width of each image inside the canvas.
        top: positions that the S-head looks at.
        score_threshold: for the stage ``decode``, which includes class-wise NMS.

    Returns:
        By the names in ``STAGES``.
    """

    seen = sizes_or_none(images, sizes)

    def backbone() -> dict[int, Tensor]:
        return model.backbone(mask_padding(model.backbone.normalise(images), seen, 0))

    features = backbone()
    pyramid = model.pyramid(features, seen)
    refined = model.refine(images, seen)

    def s_head() -> DenseOutput:
        return model.predict(refined, top=top)

    output = s_head()
    return {
        "backbone": backbone,
        "pyramid": lambda: model.pyramid(features, seen),
        "refinement": lambda: model.refine_pyramid(pyramid, seen),
        "s_head": s_head,
        "decode": lambda: decode(output, sizes, score_threshold=score_threshold, top=top),
    }


def batch_detector(detector: Detector, images: Sequence[Tensor]) -> Callable[[], object]:
    """Detection in resized images (3, h, w) uint8, with the detector's settings as they are, as a unit of work."""
    inference = detector.inference
    return lambda: detector.runner.detect(images, inference)


def stages_of(detector: Detector, images: Sequence[Tensor]) -> dict[str, Callable[[], object]]:
    """The parts of that work; none where the model has others, or is an exported file, which is one piece."""
    runner = detector.runner
    if not isinstance(runner, FoldedModel) or not isinstance(runner.model, MimicDet):
        return {}
    batch, inference = pad_to_batch(images, runner.model.divisor).to(runner.device), detector.inference
    with torch.inference_mode():
        parts = stages(
            runner.folded(), batch.images, batch.sizes,  # type: ignore[arg-type]
            top=inference.positions, score_threshold=inference.score_threshold,
        )  # fmt: skip
    return {name: torch.inference_mode()(part) for name, part in parts.items()}
