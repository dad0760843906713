"""Whole runs of the toy: what they leave, what they refuse, what they say. Resuming: see test_resume."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from accelerate.utils import LoggerType
from PIL import Image
from torch import Tensor

from mimicdet.build import load_model
from mimicdet.data.batch import Batch
from mimicdet.data.dataset import Category, DetectionDataset
from mimicdet.engine.checkpoint import save_checkpoint
from mimicdet.engine.run_folder import read_metrics
from mimicdet.engine.train import TrainResult, train
from mimicdet.errors import UserError
from mimicdet.inference.coco_metrics import METRIC_NAMES, Metrics
from mimicdet.inference.dataset import evaluate_runner
from mimicdet.inference.fold import FoldedModel
from mimicdet.settings_file import load_settings
from mimicdet.tasks.mimic import MimicTask
from mimicdet.tasks.task import WholeStep
from mimicdet.weights.folder import read_description
from tests.fakes.toy import toy_data, toy_settings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return toy_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes longer than training the toy; ``result`` has them."""
    monkeypatch.setattr("mimicdet.engine.evaluate.draw_curves", lambda *_: None)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, data: DetectionDataset) -> TrainResult:
    """A finished run with everything on."""
    settings = toy_settings(pictures=2, eval_teacher=True)
    return train(settings=settings, train_data=data, val_data=data, out=tmp_path_factory.mktemp("runs") / "run")


@contextmanager
def losses_times(factor: float, image_id: int | None = None) -> Iterator[None]:
    """Multiplies the loss of every batch, or of those with an image."""
    forward = MimicTask.forward

    def changed(task: MimicTask, batch: Batch, *whole: WholeStep) -> dict[str, Tensor]:
        losses = forward(task, batch, *whole)
        return losses | {"loss": losses["loss"] * (factor if image_id in (None, *batch.image_ids) else 1)}

    with patch.object(MimicTask, "forward", changed):
        yield


def test_what_a_run_leaves(result: TrainResult) -> None:
    run = result.run
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "curves.png",
        "metrics.jsonl",
        "model",
        "model-last",
        "pictures",
        "settings.yaml",
    ]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last.pt", "previous.pt"]
    assert load_settings(config=run / "settings.yaml") == toy_settings(pictures=2, eval_teacher=True)
    for picture in (run / "curves.png", *(run / "pictures").iterdir()):
        Image.open(picture).verify()
    assert sorted(path.name for path in (run / "pictures").iterdir()) == ["01-0.png", "02-5.png"]
    assert (result.model, result.steps) == (run / "model", 10)
    assert result.seconds > 0


def test_the_records_of_a_run(result: TrainResult) -> None:
    records = read_metrics(result.run / "metrics.jsonl")
    assert [(r["kind"], r["step"], r["epoch"]) for r in records] == [
        ("train", 3, 0.6),
        ("train", 5, 1),
        ("eval", 5, 1),
        ("train", 6, 1.2),
        ("train", 9, 1.8),
        ("train", 10, 2),
        ("eval", 10, 2),
    ]
    train_records = [record for record in records if record["kind"] == "train"]
    for record in train_records:
        modules = {name for name in record if name.startswith("grad_norm/")}
        assert modules == {
            f"grad_norm/{m}" for m in ("backbone", "pyramid", "refinement", "s_head", "t_head", "finer_level")
        }
        total = sum(record[name] ** 2 for name in modules) ** 0.5
        assert record["grad_norm"] == pytest.approx(total, rel=1e-4)
        parts = (
            "refinement_objectness",
            "refinement_boxes",
            "s_classification",
            "s_boxes",
            "t_classification",
            "t_boxes",
            "mimic_classification",
            "mimic_boxes",
        )
        assert record["loss"] == pytest.approx(sum(record[part] for part in parts), rel=1e-5)
        for part in ("mimic_rank", "mimic_soft_labels"):
            assert record[part] >= 0  # logged, though its weight is 0
        assert 0 <= record["data_wait"] < 1
        assert record["seconds_per_step"] > 0
        assert any(name.startswith("diag/") for name in record)
    cosine = [0.5 * (1 + math.cos(math.pi * step / 10)) for step in (2, 4, 5, 8, 9)]  # of the steps, counted from 0
    assert [record["lr"] for record in train_records] == pytest.approx([0.01 * c for c in cosine])
    evals = [record for record in records if record["kind"] == "eval"]
    assert all(0 <= record["teacher/AP"] <= 1 for record in evals)
    assert result.last == evals[-1]
    assert result.best == max(evals, key=lambda record: record["AP"])


def test_the_best_and_the_last_model_are_those_of_the_records(result: TrainResult, data: DetectionDataset) -> None:
    for folder, record in ((result.model, result.best), (result.run / "model-last", result.last)):
        loaded = load_model(folder)
        assert record is not None
        metrics = evaluate_runner(FoldedModel(loaded.model), data, loaded.inference)
        assert {name: metrics.to_json()[name] for name in METRIC_NAMES} == {name: record[name] for name in METRIC_NAMES}
        assert loaded.categories == data.categories


def test_the_best_weights_stay_when_later_ones_are_worse(tmp_path: Path, data: DetectionDataset) -> None:
    """Also when the run is resumed in between: a checkpoint knows the best AP so far."""
    scores = iter([0.5, 0.2, 0.4])

    def scored(*_: Any, **__: Any) -> Metrics:
        numbers = dict.fromkeys(METRIC_NAMES, 0.0) | {"AP": next(scores)}
        return Metrics(numbers=numbers, class_ap={}, class_ap50={}, images=10, objects=8, detections=0)

    settings = toy_settings(optim={"schedule": "constant"}, epochs=2)
    longer = toy_settings(optim={"schedule": "constant"}, epochs=3)
    with patch("mimicdet.engine.evaluate.evaluate_runner", scored):
        train(settings=settings, train_data=data, val_data=data, out=tmp_path / "run")
        result = train(settings=longer, train_data=data, val_data=data, out=tmp_path / "run", resume=True)
    assert result.best is not None
    assert result.last is not None
    assert [(record["step"], record["AP"]) for record in (result.best, result.last)] == [(5, 0.5), (15, 0.4)]
    steps = [read_description(result.run / name).extra["step"] for name in ("model", "model-last")]
    assert steps == [5, 15]


def test_the_average_is_what_ships(result: TrainResult) -> None:
    state = torch.load(result.run / "checkpoints" / "last.pt", weights_only=True)
    shipped = load_model(result.run / "model-last").model.state_dict()
    for key, value in shipped.items():
        assert torch.equal(value, state["average"][f"module.detector.{key}"]), key
    learned = [key for key in shipped if key.startswith("s_head") and key.endswith("weight")]
    assert not any(torch.equal(shipped[key], state["task"][f"detector.{key}"]) for key in learned)


def test_the_t_head_does_not_ship(result: TrainResult) -> None:
    assert not any("t_head" in key for key in load_model(result.model).model.state_dict())


def test_a_run_in_the_way(result: TrainResult, data: DetectionDataset) -> None:
    before = (result.run / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="already holds a run"):
        train(settings=toy_settings(), train_data=data, val_data=data, out=result.run)
    with pytest.raises(UserError, match=r"of another run: optim\.lr was 0\.01 and is 0\.02"):
        train(settings=toy_settings(optim={"lr": 0.02}), train_data=data, val_data=data, out=result.run, resume=True)
    assert (result.run / "metrics.jsonl").read_bytes() == before


def test_resuming_a_finished_run_gives_its_result(
    result: TrainResult, data: DetectionDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = toy_settings(pictures=1, eval_teacher=True)
    again = train(settings=settings, train_data=data, val_data=data, out=result.run, resume=True)
    assert again == result
    assert "epochs are trained already: nothing is left to do" in capfd.readouterr().err


def test_without_a_validation_split_the_last_weights_are_the_model(tmp_path: Path, data: DetectionDataset) -> None:
    settings = toy_settings(optim={"ema_decay": 0.0, "schedule": "step"}, epochs=1, pictures=1)
    result = train(settings=settings, train_data=data, val_data=None, out=tmp_path / "run")
    assert (result.best, result.last) == (None, None)
    assert not (result.run / "model-last").exists()
    assert (result.run / "pictures" / "01-0.png").exists()
    state = torch.load(result.run / "checkpoints" / "last.pt", weights_only=True)["task"]
    for key, value in load_model(result.model).model.state_dict().items():
        assert torch.equal(value, state[f"detector.{key}"]), key

    # Another epoch: the schedule is not cosine, so that is the run that it would have been
    longer = toy_settings(optim={"ema_decay": 0.0, "schedule": "step"}, epochs=2)
    train(settings=longer, train_data=data, val_data=None, out=tmp_path / "run", resume=True)
    straight = train(settings=longer, train_data=data, val_data=None, out=tmp_path / "straight")
    files = [run / "model" / "model.safetensors" for run in (tmp_path / "run", straight.run)]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(UserError, match=r"train\.epochs: .* has done 2 epochs"):
        train(settings=settings, train_data=data, val_data=None, out=tmp_path / "run", resume=True)

    overwritten = train(settings=settings, train_data=data, val_data=None, out=tmp_path / "run", overwrite=True)
    assert overwritten.steps == 5


def test_evaluations_come_every_so_many_epochs_and_after_the_last(tmp_path: Path, data: DetectionDataset) -> None:
    for every, expected in ((2, [4, 6]), (0, [6])):
        settings = toy_settings(epochs=3, eval_every=every, batch_size=3)
        train(settings=settings, train_data=data, val_data=data, out=tmp_path / str(every))
        records = read_metrics(tmp_path / str(every) / "metrics.jsonl")
        assert [record["step"] for record in records if record["kind"] == "eval"] == expected


def test_a_backbone_that_is_not_trained_keeps_its_weights(tmp_path: Path, data: DetectionDataset) -> None:
    settings = toy_settings(optim={"backbone_lr_factor": 0.0}, epochs=1)
    train(settings=settings, train_data=data, val_data=None, out=tmp_path / "run")
    first = read_metrics(tmp_path / "run" / "metrics.jsonl")[0]
    assert "grad_norm/pyramid" in first
    assert "grad_norm/backbone" not in first


def test_mixed_precision_learns_in_float32_weights(tmp_path: Path, data: DetectionDataset) -> None:
    settings = toy_settings(epochs=1, precision="bf16")
    # Twice as large: the CPU's bfloat16 convolution (oneDNN, AMX) reads unset memory on a 1x1 map, which P6 was else
    larger = settings.data.model_copy(update={"shorter_side": (128,), "longer_side": 128})
    settings = settings.model_copy(update={"data": larger})
    result = train(settings=settings, train_data=data, val_data=data, out=tmp_path / "run")
    losses = [record["loss"] for record in read_metrics(result.run / "metrics.jsonl") if record["kind"] == "train"]
    assert all(loss is not None for loss in losses)
    state = load_model(result.model).model.state_dict()
    assert all(value.dtype == torch.float32 for value in state.values() if value.is_floating_point())


def test_a_few_bad_steps_are_skipped(tmp_path: Path, data: DetectionDataset) -> None:
    with losses_times(float("nan"), image_id=103):
        train(settings=toy_settings(max_bad_steps=1), train_data=data, val_data=None, out=tmp_path / "run")
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert records[-1]["skipped_steps"] == 2
    assert all(record["loss"] is not None for record in records)
    state = load_model(tmp_path / "run" / "model").model.state_dict()
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())


@pytest.mark.parametrize(("most", "step"), [(0, 1), (2, 3)])
def test_bad_steps_in_a_row_end_the_run(tmp_path: Path, data: DetectionDataset, most: int, step: int) -> None:
    settings = toy_settings(max_bad_steps=most)
    with losses_times(float("inf")), pytest.raises(UserError, match=rf"stopped at step {step}: the loss .*/\d\.png"):
        train(settings=settings, train_data=data, val_data=None, out=tmp_path / "run")


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path, data: DetectionDataset, ema_decay: float) -> None:
    """An absurd learning rate: the step's loss and gradient were finite, and few steps are left to be bad."""
    optim: Any = {"lr": 1e308, "optimizer": "sgd", "warmup_steps": 0, "ema_decay": ema_decay}
    settings = toy_settings(optim=optim, epochs=1, max_bad_steps=100, checkpoint_every=0)
    with pytest.raises(UserError, match=r"training diverged: after step 5 the weights .* lower optim\.lr"):
        train(settings=settings, train_data=data, val_data=data, out=tmp_path / "run")
    assert not [*tmp_path.rglob("*.safetensors"), *tmp_path.rglob("*.pt")]


@pytest.mark.parametrize("file", ["metrics.jsonl", "checkpoints", "model"])
def test_a_full_disk_ends_in_one_sentence_and_can_be_resumed(tmp_path: Path, data: DetectionDataset, file: str) -> None:
    out = tmp_path / "run"
    settings = toy_settings(epochs=1, checkpoint_every=2)
    fsync, opened = os.fsync, Path.open
    writes = 0

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_fsync(descriptor: int) -> None:
        nonlocal writes
        if f"/{file}/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            writes += 1
            if writes == (3 if file == "checkpoints" else 1):
                full()
        fsync(descriptor)

    def full_open(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == file == "metrics.jsonl" and args == ("a",) and path.stat().st_size:
            full()
        return opened(path, *args, **kwargs)

    with (
        patch("os.fsync", full_fsync),
        patch.object(Path, "open", full_open),
        pytest.raises(UserError, match=rf"run/{file}.* cannot be written.*(disk is full|No space left)"),
    ):
        train(settings=settings, train_data=data, val_data=None, out=out)
    train(settings=settings, train_data=data, val_data=None, out=out, resume=True)
    straight = train(settings=settings, train_data=data, val_data=None, out=tmp_path / "straight")
    files = [run / "model" / "model.safetensors" for run in (out, straight.run)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_pictures_that_cannot_be_written_cost_nothing_else(
    tmp_path: Path, data: DetectionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path, file: Path) -> None:
        (tmp_path / "run/pictures").mkdir()
        (tmp_path / "run/pictures" / f"01-{data.images[0].file.stem}.png").mkdir()
        raise UserError(f"{file} cannot be written")

    monkeypatch.setattr("mimicdet.engine.evaluate.draw_curves", full)
    settings = toy_settings(epochs=1, pictures=2)
    result = train(settings=settings, train_data=data, val_data=None, out=tmp_path / "run")
    assert [text.partition(" cannot be written")[0] for text in result.unwritten] == [
        str(tmp_path / "run/curves.png"),
        str(tmp_path / "run/pictures" / f"01-{data.images[0].file.stem}.png"),
    ]
    assert sum(path.is_file() for path in (tmp_path / "run/pictures").iterdir()) == 1
    assert (result.model / "model.safetensors").is_file()


def test_a_broken_last_checkpoint(tmp_path: Path, data: DetectionDataset, capfd: pytest.CaptureFixture[str]) -> None:
    out, settings = tmp_path / "run", toy_settings(epochs=1)
    train(settings=settings, train_data=data, val_data=None, out=out)
    weights = (out / "model" / "model.safetensors").read_bytes()
    last = out / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    capfd.readouterr()
    train(settings=settings, train_data=data, val_data=None, out=out, resume=True)
    assert "last.pt is broken" in capfd.readouterr().err
    assert (out / "model" / "model.safetensors").read_bytes() == weights


def test_a_run_that_ended_before_its_first_checkpoint(
    tmp_path: Path, data: DetectionDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    out, settings = tmp_path / "run", toy_settings(epochs=1, max_bad_steps=0)
    with losses_times(float("nan")), pytest.raises(UserError):
        train(settings=settings, train_data=data, val_data=None, out=out)
    assert list((out / "checkpoints").iterdir()) == []
    capfd.readouterr()
    train(settings=settings, train_data=data, val_data=None, out=out, resume=True)
    assert "from the beginning" in capfd.readouterr().err


def test_a_checkpoint_of_another_model(tmp_path: Path, data: DetectionDataset) -> None:
    """Settings say the same, the weights do not: an edited file, or another version of the package."""
    out, settings = tmp_path / "run", toy_settings(epochs=1)
    train(settings=settings, train_data=data, val_data=None, out=out)
    last = out / "checkpoints" / "last.pt"
    state = torch.load(last, weights_only=True)
    key = next(key for key in state["task"] if "s_head" in key)
    del state["task"][key]
    save_checkpoint(last.parent, state)
    with pytest.raises(UserError, match=rf"checkpoint of another model: Missing key.*{key}"):
        train(settings=settings, train_data=data, val_data=None, out=out, resume=True)


def test_data_that_does_not_go_together(tmp_path: Path, data: DetectionDataset) -> None:
    out = tmp_path / "run"
    empty = replace(data, images=())
    blue = replace(data, split="val", categories=(data.categories[0], Category(5, "blue")))
    settings = toy_settings()
    for train_data, val_data, told in [
        (empty, None, "the split 'train' has no images to train on"),
        (data, empty, "no images to evaluate on"),
        (data, blue, "the classes of 'val' are red, blue, those of 'train' red, green"),
    ]:
        with pytest.raises(UserError, match=told):
            train(settings=settings, train_data=train_data, val_data=val_data, out=out)
    assert not out.exists()


def test_an_image_that_breaks_during_the_run(tmp_path: Path) -> None:
    data = toy_data(tmp_path / "images")
    data.images[3].file.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"3\.png"):
        train(settings=toy_settings(), train_data=data, val_data=None, out=tmp_path / "run")


def test_trackers_get_the_numbers(tmp_path: Path, data: DetectionDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trackers: list[Tracker] = []

    class Tracker(GeneralTracker):
        """Stands in for TensorBoard, which need not be installed."""

        name = "tensorboard"
        requires_logging_directory = True

        def __init__(self, run_name: str, logging_dir: Path, **_: Any) -> None:
            super().__init__()
            self.logging_dir = logging_dir
            self.logged: list[tuple[int | None, dict[str, Any]]] = []
            self.config: dict[str, Any] = {}
            self.finished = False
            trackers.append(self)

        @property
        def tracker(self) -> None:
            return None

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            self.config = values

        def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
            self.logged.append((step, values))

        def finish(self) -> None:
            self.finished = True

    available = [LoggerType.TENSORBOARD]
    monkeypatch.setattr("mimicdet.engine.processes.get_available_trackers", lambda: available)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: available)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Tracker)
    settings = toy_settings(epochs=1, trackers=("tensorboard",))
    train(settings=settings, train_data=data, val_data=data, out=tmp_path / "run")
    (tracker,) = trackers
    assert tracker.finished
    assert str(tracker.logging_dir) == str(tmp_path / "run" / "trackers")
    assert tracker.config["optim.lr"] == 0.01
    assert [step for step, _ in tracker.logged] == [3, 5, 5]
    assert tracker.logged[0][1]["loss"] > 0
    assert tracker.logged[-1][1]["AP"] >= 0
    assert yaml.safe_load(yaml.safe_dump(tracker.config)) == tracker.config  # plain values, as TensorBoard wants them


def test_data_that_teach_nothing(tmp_path: Path, data: DetectionDataset, capfd: pytest.CaptureFixture[str]) -> None:
    crowd = tuple(replace(record, crowd=~record.crowd) for record in data.images)
    small = tuple(replace(record, boxes=record.boxes / 64) for record in data.images)
    for images, says in ((crowd, "regions are marked as crowd"), (small, "all 8 have a side below one pixel")):
        with pytest.raises(UserError, match=says):
            train(settings=toy_settings(), train_data=replace(data, images=images), val_data=None, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
    some = replace(data, images=small[:1] + data.images[1:])
    train(settings=toy_settings(epochs=1), train_data=some, val_data=None, out=tmp_path / "run")
    assert "1 of 8 objects have a side below one pixel at 64 x 64 pixels" in capfd.readouterr().err
