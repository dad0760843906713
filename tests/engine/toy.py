"""A data set and a MimicDet so small that an epoch takes a third of a second, for tests of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mimicdet.config import (
    DataSettings,
    InferenceSettings,
    MimicDetSettings,
    OptimSettings,
    Settings,
    TeacherSettings,
    TrainSettings,
)
from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord

SIDE = 64


def toy_data(folder: Path, *, images: int = 10, empty: tuple[int, ...] = (4, 9)) -> DetectionDataset:
    """One red or green rectangle on noise in each image; none in the images ``empty``. Files are made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    records = []
    for i in range(images):
        pixels = random.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        x, y = random.integers(0, SIDE // 2, 2)
        w, h = random.integers(12, SIDE // 2, 2)
        label = int(random.integers(0, 2))
        if i not in empty:
            pixels[y : y + h, x : x + w, label] = 220
        file = folder / f"{i}.png"
        if not file.exists():
            Image.fromarray(pixels).save(file)
        m = 0 if i in empty else 1
        records.append(
            ImageRecord(
                id=100 + i,
                file=file,
                height=SIDE,
                width=SIDE,
                boxes=np.array([[x, y, x + w, y + h]], dtype=np.float64)[:m],
                labels=np.array([label], dtype=np.int64)[:m],
                crowd=np.zeros(m, dtype=bool),
                areas=np.array([w * h], dtype=np.float64)[:m],
            )
        )
    return DetectionDataset(folder, "train", "coco", (Category(1, "red"), Category(5, "green")), tuple(records))


def toy_settings(*, optim: dict[str, Any] | None = None, **train: Any) -> Settings:
    """Two epochs of five steps of two batches of one image; AdamW, moving average, batch norm in training."""
    return MimicDetSettings(
        model=MimicDetSettings.Model(
            backbone="test_resnet",
            weights="random",
            frozen_stages=1,
            freeze_batch_norm=False,
            pyramid_channels=8,
            head_channels=8,
            head_features=8,
        ),
        teacher=TeacherSettings(conv_channels=8),
        data=DataSettings(shorter_side=(SIDE,), longer_side=SIDE, workers=0, color_jitter=0.3),
        optim=OptimSettings(
            **{
                "optimizer": "adamw",
                "lr": 0.01,
                "lr_batch": 2,
                "momentum": 0.9,
                "weight_decay": 0.01,
                "schedule": "cosine",
                "warmup_steps": 2,
                "accumulate": 2,
                "clip_grad_norm": 10.0,
                "ema_decay": 0.9,
                **(optim or {}),
            }
        ),
        train=TrainSettings(
            **{"epochs": 2, "batch_size": 1, "checkpoint_every": 2, "log_every": 3, "pictures": 0, **train}
        ),
        inference=InferenceSettings(shorter_side=SIDE, longer_side=SIDE),
    )
