from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mimicdet import Detector
from mimicdet.build import build_model
from mimicdet.cli import main
from mimicdet.config import InferenceSettings, MimicDetSettings
from mimicdet.data.dataset import Category
from mimicdet.lab.bench import STAGES

SETTINGS = MimicDetSettings.Model(
    backbone="resnet10t", weights="random", pyramid_channels=16, head_channels=16, head_features=32
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "model"
    inference = InferenceSettings(shorter_side=64, longer_side=80)
    model = build_model(SETTINGS, num_classes=2)
    categories = (Category(1, "a"), Category(2, "b"))
    Detector(model=model, categories=categories, settings=SETTINGS, inference=inference).save_pretrained(folder)
    return folder


def test_the_whole_and_its_stages_of_several_models(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    other = tmp_path / "other"
    Detector.from_pretrained(folder).save_pretrained(other)
    file = tmp_path / "times.json"
    words = ["bench", str(folder), str(other), "--rounds", "2", "--batch", "2", "--device", "cpu", "--json", str(file)]
    assert main([*words, "--threads", str(threads)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("2 x 64 x 80 pixels, cpu")  # four thirds of 64 is more than the longer side may be
    content = json.loads(file.read_text())
    rows = {row["name"]: row for row in content["rows"]}
    parts = [f"{path}: {stage}" for path in (folder, other) for stage in STAGES]
    assert list(rows) == [str(folder), str(other), *parts]
    assert rows[str(folder)]["ratio"] == 1
    for path in (folder, other):
        assert sum(rows[f"{path}: {stage}"]["ratio"] for stage in STAGES) == pytest.approx(1)
    assert all(0 < row["low_ms"] <= row["median_ms"] <= row["high_ms"] for row in rows.values())


@pytest.mark.parametrize(
    ("name", "message"), [("folder", "folder is a folder; "), ("file/x/times.json", "times.json cannot be written (")]
)
def test_a_place_for_the_times_is_looked_at_first(
    folder: Path,
    tmp_path: Path,
    name: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("mimicdet.lab.bench.alternate", lambda *_, **__: pytest.fail("it was measured"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert main(["bench", str(folder), "--json", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "name model folders or exported files"),
        ("{} --size 800", "--size must be a height and a width such as 800x1088, not '800'"),
        ("{} --size 0x8", "--size must be a height and a width"),
        ("{} --rounds 0", "--rounds must be at least 1, not 0"),
        ("{} --batch 0", "--batch must be at least 1, not 0"),
        ("nowhere", "nowhere is not a model folder"),
    ],
)
def test_what_cannot_be_timed(folder: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words.format(folder).split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "99999x99999"], "1 x 99999 x 99999 pixels are too many"),
        (["--size", "4096x4097"], "an image may have 16,777,216 pixels and a batch 67,108,864 at most"),
        (["--size", "4096x4096", "--batch", "5"], "5 x 4096 x 4096 pixels are too many"),
        (["--batch", "100000000"], "100000000 x 64 x 80 pixels are too many"),
        (["--size", "9" * 5000 + "x9"], "--size must be a height and a width"),
        (["--size", "²x9"], "--size must be a height and a width"),
        (["--threads", "100000"], "--threads must be at most "),
    ],
)
def test_more_than_a_machine_holds_is_refused(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(folder), "--rounds", "1", *words]) == 2
    assert message in capsys.readouterr().err
