"""Whole runs that distil: what ships, teachers that are refused, and resuming with a teacher."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from mimicdet.build import build_model, load_model
from mimicdet.config import SETTINGS_OF, DistillSettings, InferenceSettings, Settings
from mimicdet.data.dataset import DetectionDataset
from mimicdet.engine.evaluate import sample_of
from mimicdet.engine.run_folder import read_metrics
from mimicdet.engine.stop import TrainingStopped
from mimicdet.engine.train import train
from mimicdet.errors import UserError
from mimicdet.tasks.detect import FasterRcnnTask
from mimicdet.tasks.distill import DistillTask
from mimicdet.weights.folder import save_model
from tests.engine.test_resume import assert_identical, checkpoint
from tests.fakes.toy import SIDE, toy_data, toy_settings


def student(family: str = "gfl", **changes: Any) -> Settings:
    toy = toy_settings(**changes.pop("train", {}))
    own: dict[str, Any] = {"head_groups": 0 if family == "retinanet" else 4}
    if family == "faster_rcnn":
        own = {"head_features": 16, "levels": (2, 3, 4, 5, 6)}
    model = SETTINGS_OF[family].Model(
        family=family,
        backbone="test_resnet",
        weights="random",
        frozen_stages=1,
        freeze_batch_norm=False,
        pyramid_channels=8,
        **own,
    )  # type: ignore[arg-type]
    inference = InferenceSettings(shorter_side=SIDE, longer_side=SIDE)
    shared = {"data": toy.data, "optim": toy.optim, "train": toy.train, "inference": inference}
    return SETTINGS_OF[family](task="detect", model=model, **shared).model_copy(update=changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return toy_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimicdet.engine.evaluate.draw_curves", lambda *_: None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, data: DetectionDataset) -> Path:
    """A model folder of weights that were never trained."""
    folder = tmp_path_factory.mktemp("teacher") / "model"
    settings = student().model
    torch.manual_seed(0)
    save_model(
        folder,
        build_model(settings, 2),
        model_settings=settings.model_dump(mode="json"),
        inference=InferenceSettings().model_dump(mode="json"),
        categories=data.categories,
    )
    return folder


def distilling(teacher: Path, **changes: Any) -> Settings:
    distill = DistillSettings(teachers=(str(teacher),), **{"trust_teacher": True, **changes.pop("distill", {})})
    return student(**changes).model_copy(update={"task": "distill", "distill": distill})


def test_a_run_ships_the_student_alone(teacher: Path, data: DetectionDataset, tmp_path: Path) -> None:
    settings = distilling(teacher, distill={"whole_map": 1.0})
    result = train(settings=settings, train_data=data, val_data=data, out=tmp_path / "run")
    records = read_metrics(tmp_path / "run/metrics.jsonl")
    first = next(r for r in records if r["kind"] == "train")
    assert {"rank", "imitation", "whole_map", "classification", "boxes", "distribution"} <= first.keys()
    loaded = load_model(result.model)
    alone = build_model(settings.model, 2).state_dict()
    assert loaded.model.state_dict().keys() == alone.keys()
    saved = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)
    assert saved["task"].keys() == {f"detector.{key}" for key in alone}  # nor is it in checkpoints


def test_a_teacher_that_finds_nothing_is_refused(teacher: Path, data: DetectionDataset, tmp_path: Path) -> None:
    settings = distilling(teacher, distill={"trust_teacher": False, "check_images": 4})
    with pytest.raises(
        UserError, match=r"model: the teacher finds next to nothing in 4 images of 'train' \(AP50 0.0\)"
    ):
        train(settings=settings, train_data=data, val_data=None, out=tmp_path / "run")


def test_a_teacher_that_is_good_enough_is_named_with_its_ap(
    teacher: Path, data: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("mimicdet.engine.evaluate.LEAST_AP50", -1.0)
    # With CrossKD, whose gradient passes through the very teacher that was just tried
    settings = distilling(teacher, distill={"trust_teacher": False, "cross": 1.0}, train={"epochs": 1})
    train(settings=settings, train_data=data, val_data=data, out=tmp_path / "run")
    assert f"teacher {teacher}: AP 0.0" in (shown := capsys.readouterr()).out + shown.err


def test_trust_is_told(teacher: Path, data: DetectionDataset, tmp_path: Path, capsys: Any) -> None:
    train(settings=distilling(teacher, train={"epochs": 1}), train_data=data, val_data=None, out=tmp_path / "run")
    assert "is trusted without a trial" in (shown := capsys.readouterr()).out + shown.err


def test_the_sample_holds_images_with_objects(data: DetectionDataset) -> None:
    """Of the ten, the fifth and the tenth are empty."""
    assert [record.id for record in sample_of((None, data), 6, (0, 1)).images] == [100, 101, 102, 103, 105, 106]
    only_green = sample_of((None, data), 6, (-1, 0))
    assert all((record.labels == 1).all() and len(record.labels) for record in only_green.images)
    assert 0 < len(only_green) < 8
    empty = toy_data(data.root, empty=tuple(range(10)))
    with pytest.raises(UserError, match="no image has an object of the teacher's classes"):
        sample_of((empty, None), 6, (0, 1))


@pytest.mark.parametrize("kind", [DistillTask, FasterRcnnTask])
def test_stopped_and_resumed_is_never_stopped(
    kind: Any, teacher: Path, data: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With adapters that are trained along, and a teacher that is loaded anew; and with samples that torch draws."""
    settings = distilling(teacher, distill={"imitation": 1.0, "rank_which": "both"})
    if kind is FasterRcnnTask:
        settings = student("faster_rcnn")
    train(settings=settings, train_data=data, val_data=data, out=tmp_path / "straight")
    forward, calls = kind.forward, []

    def stops(task: Any, batch: Any, *whole: Any) -> Any:
        calls.append(batch)
        if len(calls) == 6:
            import signal

            signal.raise_signal(signal.SIGTERM)
        return forward(task, batch, *whole)

    monkeypatch.setattr(kind, "forward", stops)
    with pytest.raises(TrainingStopped):
        train(settings=settings, train_data=data, val_data=data, out=tmp_path / "resumed")
    train(settings=settings, train_data=data, val_data=data, out=tmp_path / "resumed", resume=True)
    assert_identical(checkpoint(tmp_path / "resumed"), checkpoint(tmp_path / "straight"))


def test_a_teacher_that_changed_since_is_noticed(
    teacher: Path, data: DetectionDataset, tmp_path: Path, capsys: Any
) -> None:
    """Its folder is the same, and one of its values is not."""
    copy = tmp_path / "teacher"
    shutil.copytree(teacher, copy)
    changes = {"schedule": "step", "milestones": (1.5,)}  # under a cosine schedule the epochs must stay
    settings = distilling(copy, train={"epochs": 1, "optim": changes})
    train(settings=settings, train_data=data, val_data=data, out=tmp_path / "run")
    longer = distilling(copy, train={"epochs": 2, "optim": changes})

    state = load((copy / "model.safetensors").read_bytes())
    next(iter(state.values())).view(-1)[0] += 1
    save_file(state, copy / "model.safetensors")  # as a program that knows no checksum
    with pytest.raises(UserError, match=r"last.pt was trained with other weights of the teacher .*teacher, which has"):
        train(settings=longer, train_data=data, val_data=data, out=tmp_path / "run", resume=True)

    shutil.copytree(teacher, copy, dirs_exist_ok=True)
    train(settings=longer, train_data=data, val_data=data, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize("family", ["retinanet", "fcos", "atss", "gfl", "faster_rcnn"])
def test_every_family_trains_alone(family: str, data: DetectionDataset, tmp_path: Path) -> None:
    settings = student(family, train={"epochs": 1})
    result = train(settings=settings, train_data=data, val_data=data, out=tmp_path / "run")
    assert result.last is not None
    assert 0 <= result.last["AP"] <= 1
    assert load_model(result.model).settings.family == family


def test_a_runs_t_head_teaches(data: DetectionDataset, tmp_path: Path) -> None:
    train(settings=toy_settings(epochs=1), train_data=data, val_data=None, out=tmp_path / "mimic")
    settings = distilling(tmp_path / "mimic", train={"epochs": 1})
    train(settings=settings, train_data=data, val_data=None, out=tmp_path / "run")
    first = next(r for r in read_metrics(tmp_path / "run/metrics.jsonl") if r["kind"] == "train")
    assert first["imitation"] > 0
