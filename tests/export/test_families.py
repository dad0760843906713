"""Every family leaves as a file that detects what its model detects; MimicDet: see test_export."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
import torch

from mimicdet import Detector
from mimicdet.build import build_model
from mimicdet.cli import main
from mimicdet.config import SETTINGS_OF
from mimicdet.models.one_stage import OneStage
from tests.export.conftest import CATEGORIES, INFERENCE
from tests.export.test_export import SUFFIXES, assert_same

SLOW = pytest.mark.slow
"""An export takes a quarter of a minute; the default run makes one that is not MimicDet's."""
KINDS = [
    pytest.param(family, format, marks=() if (family, format) == ("gfl", "torch") else SLOW)
    for family in ("retinanet", "fcos", "atss", "gfl")
    for format in ("torch", "onnx")
]


def save_model(family: str, folder: Path) -> Path:
    """Random weights that find things: scores lie around 0.5."""
    torch.manual_seed(0)
    settings = SETTINGS_OF[family].Model(
        family=family,
        backbone="resnet10t",
        weights="random",
        pyramid_channels=16,
        pyramid_norm="layer",
        head_groups=0 if family == "retinanet" else 4,
    )  # type: ignore[arg-type]
    model = build_model(settings, num_classes=3)
    assert isinstance(model, OneStage)
    for name, parameter in model.head.named_parameters():
        if name.endswith("weight") and parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    inference = INFERENCE.model_copy(update={"score_threshold": 0.5})
    Detector(model=model, categories=CATEGORIES, settings=settings, inference=inference).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("family", "format"), KINDS)
def test_a_file_detects_what_its_model_detects(
    family: str, format: str, photographs: list[Path], tmp_path: Path
) -> None:
    """Two images of different shapes at once, at other sizes than that of the export."""
    folder, file = save_model(family, tmp_path / "model"), tmp_path / f"file{SUFFIXES[format]}"
    words = ["export", str(folder), "--format", format, "--out", str(file), "--images", str(photographs[0])]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == 0
    detectors = Detector.from_pretrained(folder), Detector.from_pretrained(file, trust=True)
    for detector in detectors:
        detector.inference = detector.inference.model_copy(update={"batch_size": 2})
    for expected, found in zip(*(detector(photographs) for detector in detectors), strict=True):
        assert_same(found, expected)
