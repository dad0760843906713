"""A small model whose random weights find things, saved once."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mimicdet import Detector
from mimicdet.build import build_model
from mimicdet.config import InferenceSettings, MimicDetSettings
from mimicdet.data.dataset import Category

SETTINGS = MimicDetSettings.Model(
    backbone="resnet10t",
    weights="random",
    pyramid_channels=16,
    pyramid_norm="layer",
    head_channels=16,
    head_features=32,
    head_init="he",
    offsets="box_grid+learned",
)
INFERENCE = InferenceSettings(
    shorter_side=200, longer_side=320, score_threshold=0.3, nms_iou=0.5, max_detections=40, positions=300
)
CATEGORIES = (Category(7, "cat"), Category(2, "dog"), Category(91, "newt"))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_model(SETTINGS, num_classes=3)
    torch.nn.init.normal_(model.s_head.classifier.weight, std=0.5)
    torch.nn.init.normal_(model.s_head.regressor.weight, std=0.2)
    torch.nn.init.normal_(model.refinement.objectness.weight, std=0.1)
    folder = tmp_path_factory.mktemp("exported") / "model"
    Detector(model=model, categories=CATEGORIES, settings=SETTINGS, inference=INFERENCE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Matplotlib's portrait, as it is and a part of it on its side."""
    from matplotlib import cbook

    folder = tmp_path_factory.mktemp("photographs")
    whole = Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    images = {"whole": whole, "part": whole.crop((60, 30, 500, 330)).rotate(90, expand=True)}
    for name, image in images.items():
        image.save(folder / f"{name}.png")
    assert np.asarray(whole).shape == (600, 512, 3)
    return sorted(folder.iterdir())


@pytest.fixture(autouse=True)
def _quiet_exporter() -> None:
    """Pytest captures every logger from DEBUG on, at which torch writes down all it does: twice as slow."""
    logging.getLogger("torch.__trace").setLevel(logging.WARNING)
