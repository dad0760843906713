"""A resumed run is the same run: exchanged images are refused, another yardstick or machine is told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from mimicdet.data.dataset import DetectionDataset
from mimicdet.engine.run_folder import read_metrics
from mimicdet.engine.stop import TrainingStopped
from mimicdet.engine.train import TrainResult, train
from mimicdet.errors import UserError
from mimicdet.inference.coco_metrics import METRIC_NAMES, Metrics
from mimicdet.weights.folder import read_description
from tests.fakes.toy import SIDE, toy_data, toy_settings

SETTINGS: dict[str, Any] = {"optim": {"schedule": "constant", "ema_decay": 0.0}, "log_every": 100}


@contextmanager
def evaluating_to(*scores: float) -> Iterator[None]:
    """The evaluations of a run find these APs, one after the other."""
    left = iter(scores)

    def scored(*_: Any, **__: Any) -> Metrics:
        numbers = dict.fromkeys(METRIC_NAMES, 0.0) | {"AP": next(left)}
        return Metrics(numbers=numbers, class_ap={}, class_ap50={}, images=10, objects=8, detections=0)

    nothing = patch("mimicdet.engine.evaluate.draw_curves", lambda *_: None)  # it takes longer than all the rest
    with patch("mimicdet.engine.evaluate.evaluate_runner", scored), nothing:
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DetectionDataset, DetectionDataset]:
    """A run of one epoch of four images with AP 0.5, and the splits that it was trained on and measured by."""
    folder = tmp_path_factory.mktemp("finished")
    train_data, val_data = (toy_data(folder / name, images=4, empty=()) for name in ("train", "val"))
    val_data = replace(val_data, split="val")
    with evaluating_to(0.5):
        train(settings=toy_settings(epochs=1, **SETTINGS), train_data=train_data, val_data=val_data, out=folder / "run")
    return folder, train_data, val_data


@pytest.fixture
def run(
    finished: tuple[Path, DetectionDataset, DetectionDataset], tmp_path: Path
) -> tuple[Path, DetectionDataset, DetectionDataset]:
    """A copy of it, images and all."""
    folder, *sets = finished
    shutil.copytree(folder, tmp_path / "copy")
    moved = [
        replace(one, images=tuple(replace(r, file=tmp_path / "copy" / name / r.file.name) for r in one.images))
        for one, name in zip(sets, ("train", "val"), strict=True)
    ]
    return tmp_path / "copy" / "run", *moved


def resumed(out: Path, train_data: DetectionDataset, val_data: DetectionDataset | None, epochs: int = 2) -> TrainResult:
    return train(
        settings=toy_settings(epochs=epochs, **SETTINGS), train_data=train_data, val_data=val_data, out=out, resume=True
    )


def exchange(file: Path) -> None:
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(file)


Run = tuple[Path, DetectionDataset, DetectionDataset]


def test_exchanged_training_images_are_refused(run: Run) -> None:
    out, train_data, val_data = run
    before = (out / "metrics.jsonl").read_bytes()
    for index in (2, 3):
        exchange(train_data.images[index].file)
    with pytest.raises(UserError, match=r"train/2\.png and 1 more: the image has changed since .*last\.pt was written"):
        resumed(out, train_data, val_data)
    assert (out / "metrics.jsonl").read_bytes() == before


def moved_box(data: DetectionDataset) -> DetectionDataset:
    first, *others = data.images
    return replace(data, images=(replace(first, boxes=first.boxes + 1), *others))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda val: replace(val, split="test"), "the validation split was 'val' and is 'test'"),
        (moved_box, "images, objects or classes of the validation split have changed"),
        (lambda val: exchange(val.images[1].file) or val, "images of the validation split have changed"),
    ],
)
def test_by_another_yardstick_the_best_starts_anew(
    run: Run, change: Any, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out, train_data, val_data = run
    val_data = change(val_data)
    with pytest.raises(UserError, match=f"trained to the end, and {told}; measure it with `mimicdet eval`"):
        resumed(out, train_data, val_data, epochs=1)
    capfd.readouterr()
    with evaluating_to(0.25):
        result = resumed(out, train_data, val_data)
    assert f"{told}: APs before and after do not compare, so the best AP starts anew" in capfd.readouterr().err
    assert result.best is not None
    assert (result.best["AP"], result.best["step"]) == (0.25, 4)
    assert read_description(result.model).extra["step"] == 4
    with evaluating_to(0.125):  # it is the yardstick now
        again = resumed(out, train_data, val_data, epochs=3)
    assert "anew" not in capfd.readouterr().err
    assert again.best == result.best


def test_without_the_validation_split(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    out, train_data, _ = run
    with evaluating_to():
        assert resumed(out, train_data, None).best is None
    assert "there is no validation split now: APs before" in capfd.readouterr().err


def test_another_number_of_threads_is_told(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with evaluating_to(0.75):
            result = resumed(*run)
    finally:
        torch.set_num_threads(threads)
    told = capfd.readouterr().err
    assert f"it ran with threads {threads}, now {threads + 1}: its sums round otherwise from here on" in told
    assert result.best is not None
    assert result.best["AP"] == 0.75


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ((-1, -1, -1), None),  # no object to measure by
        ((0, 0, 0), 3),
        ((0.5, 0.5, 0.25), 2),
        ((-1, 0.5, 0.25), 2),
    ],
)
def test_the_best_of_nothing_are_the_last_weights(
    finished: Run, tmp_path: Path, scores: tuple[float, ...], best: int | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """The best is the later of equal ones. Two steps are an epoch."""
    _, train_data, val_data = finished
    with evaluating_to(*scores):
        result = train(
            settings=toy_settings(epochs=3, **SETTINGS), train_data=train_data, val_data=val_data, out=tmp_path / "run"
        )
    assert (None if result.best is None else result.best["step"]) == (best and 2 * best)
    assert read_description(result.model).extra["step"] == 2 * (best or 3)
    told = capfd.readouterr().err
    for epoch, score in enumerate(scores, start=1):
        assert f"epoch {epoch} of 3" in told
        assert f"AP {'-' if score < 0 else f'{100 * score:.1f}'}, AP50 0.0" in told
    written = [record["AP"] for record in read_metrics(tmp_path / "run/metrics.jsonl") if record["kind"] == "eval"]
    assert written == [None if score < 0 else score for score in scores]
    extra = read_description(tmp_path / "run/model-last").extra
    assert extra["AP"] == written[-1]


def test_a_run_resumed_at_the_end_of_an_epoch_knows_its_loss(
    finished: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, train_data, val_data = finished

    def interrupted(*_: Any, **__: Any) -> Metrics:
        raise TrainingStopped

    with patch("mimicdet.engine.evaluate.evaluate_runner", interrupted), pytest.raises(TrainingStopped):
        train(
            settings=toy_settings(epochs=1, **SETTINGS), train_data=train_data, val_data=val_data, out=tmp_path / "run"
        )
    capfd.readouterr()
    with evaluating_to(0.5):
        resumed(tmp_path / "run", train_data, val_data, epochs=1)
    (record,) = (one for one in read_metrics(tmp_path / "run/metrics.jsonl") if one["kind"] == "train")
    assert f"epoch 1 of 1: loss {record['loss']:.4g}, AP 50.0" in capfd.readouterr().err
