"""``--inference.key value`` of the commands that use a trained model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from mimicdet.commands.optional import optional

if TYPE_CHECKING:
    from mimicdet.config import InferenceSettings


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """Stored with the model; what is given here is used instead."""

    shorter_side: Annotated[int | None, optional("PIXELS", int)] = None
    """Shorter side that images are resized to."""
    longer_side: Annotated[int | None, optional("PIXELS", int)] = None
    """Longer side at most; the shorter one shrinks along."""
    dense: Annotated[Literal["true", "false"] | None, arg(metavar="{true,false}", help_behavior_hint="")] = None
    """Compute the S-head everywhere instead of at the best positions only."""
    positions: Annotated[int | None, optional("N", int)] = None
    """Positions of an image that the S-head looks at."""
    score_threshold: Annotated[float | None, optional("SCORE", float)] = None
    """Detections below this score are left out."""
    nms_iou: Annotated[float | None, optional("IOU", float)] = None
    """Of two boxes of a class that overlap more than this, the lower score goes."""
    max_detections: Annotated[int | None, optional("N", int)] = None
    """Detections of an image (or tile) at most."""
    flips: Annotated[
        Literal["none", "horizontal", "all"] | None, arg(metavar="{none,horizontal,all}", help_behavior_hint="")
    ] = None
    """Detect in mirrored copies of the image too, and take the best of all; takes two or four times as long."""
    batch_size: Annotated[int | None, optional("N", int)] = None
    """Images (or tiles) at once."""

    def applied_to(self, settings: InferenceSettings, model: Path) -> InferenceSettings:
        """The settings of ``model`` with what was given on the command line in their place."""
        from mimicdet.commands.overrides import COMMAND_LINE
        from mimicdet.settings_file import Layer, resolve

        stored = {f"inference.{key}": value for key, value in settings.model_dump(mode="json").items()}
        given = {f"inference.{key}": value for key, value in asdict(self).items() if value is not None}
        if self.dense is not None:
            given["inference.dense"] = self.dense == "true"
        return resolve([Layer(f"in {model}", stored), Layer(COMMAND_LINE, given)]).inference
