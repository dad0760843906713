"""A pipe that nobody writes, or a device without an end, in place of any file that is read, is told at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimicdet.build import load_model
from mimicdet.cli import main
from mimicdet.data.splits import find_splits
from mimicdet.engine.checkpoint import save_checkpoint
from mimicdet.engine.run_folder import MetricsFile, RunFolder, read_metrics
from mimicdet.errors import UserError
from mimicdet.export.exported_file import read_export_description
from mimicdet.export.inside import require_openvino_inside
from mimicdet.export.run_onnx import OnnxDetector, UnusableFileError
from mimicdet.lab.study.evidence import EVIDENCE, read_evidence
from mimicdet.lab.study.study_file import read_study
from mimicdet.predict import Detector
from mimicdet.predict.files import find_images
from mimicdet.report.curves import draw_curves
from mimicdet.settings_file import load_settings
from mimicdet.weights.checkpoint_file import BROKEN, newest_checkpoint
from mimicdet.weights.folder import read_description
from mimicdet.weights.pretrained import read_weights
from tests.engine.test_run_folder import make_run

READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "settings": ("a.yaml", lambda file: load_settings(config=file)),
    "study": ("a.yaml", lambda file: read_study(file)),
    "evidence": (EVIDENCE, lambda file: read_evidence(file.parent)),
    "checkpoint": ("last.pt", lambda file: newest_checkpoint(file.parent)),
    "metrics": ("metrics.jsonl", read_metrics),
    "metrics cut off": ("metrics.jsonl", lambda file: MetricsFile(file).keep_first(1)),
    "curves": ("metrics.jsonl", lambda file: draw_curves(file, file.with_name("curves.png"))),
    "weights": ("a.pth", lambda file: read_weights(file, "test_resnet")),
    "torchvision": ("a.pth", load_model),
    "model.json": ("model.json", lambda file: read_description(file.parent)),
    "model.safetensors": ("model.safetensors", lambda file: read_description(file.parent)),
    "exported": ("a.onnx", Detector.from_pretrained),
    "exported torch": ("a.pt2", lambda file: Detector.from_pretrained(file, trust=True)),
    "description": ("a.onnx.json", lambda file: read_export_description(file.with_name("a.onnx"))),
    "openvino weights": ("a.bin", lambda file: require_openvino_inside(file.with_name("a.xml"))),
    "run_onnx": ("a.onnx", OnnxDetector),
    "run_onnx description": ("a.onnx.json", lambda file: OnnxDetector(file.with_name("a.onnx"))),
    "data set": ("a.json", find_splits),
    "image": ("a.png", lambda file: find_images([file])),
}


def in_time(work: Callable[[], object]) -> Any:
    """What the work raises or returns; a failure where it waits, which no test may do."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except (UserError, UnusableFileError) as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(3)
    assert not thread.is_alive(), "it waits for a pipe or reads without an end"
    return outcome[0]


@pytest.mark.parametrize("kind", READERS)
def test_a_pipe_or_device_is_not_read(tmp_path: Path, kind: str) -> None:
    name, read = READERS[kind]
    for other in ("a.onnx", "model.json", "model.safetensors"):
        (tmp_path / other).touch()
    (tmp_path / "a.xml").write_text("<net></net>")
    file = tmp_path / name
    for make in (lambda: os.mkfifo(file), lambda: file.symlink_to("/dev/zero")):
        file.unlink(missing_ok=True)
        make()
        told = str(in_time(lambda: read(file)))
        assert str(file) in told
        assert "is a pipe, a socket or a device" in told


def test_a_checkpoint_that_is_a_pipe_falls_to_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"step": 1})
    save_checkpoint(tmp_path, {"step": 2})
    (tmp_path / "last.pt").unlink()
    os.mkfifo(tmp_path / "last.pt")
    file, notice = in_time(lambda: newest_checkpoint(tmp_path))
    assert file == tmp_path / "previous.pt"
    assert "last.pt is broken (it is a pipe, a socket or a device); going on from" in notice
    assert (tmp_path / BROKEN).is_fifo()


@pytest.mark.parametrize("name", ["settings.yaml", "metrics.jsonl"])
def test_a_run_with_a_pipe_is_not_gone_on_with(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "run").close()
    (tmp_path / "run" / name).unlink()
    os.mkfifo(tmp_path / "run" / name)
    told = in_time(lambda: RunFolder(tmp_path / "run").require_fit(resume=True, overwrite=False))
    assert f"{name} is a pipe" in str(told)


def test_outputs_that_lead_nowhere_are_told_by_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is read, for none of the inputs is there."""
    monkeypatch.chdir(tmp_path)
    Path("file").symlink_to("nowhere/x.json")
    Path("folder").symlink_to("nowhere")
    Path("study.yaml").write_text("title: x\nruns: [{name: a}]\n")
    for words in (
        "check data --json file",
        "eval model --data data --json file",
        "predict model 1.png --json file",
        "bench model --json folder/x.json",
        "study study.yaml --out folder",
    ):
        assert main(words.split()) == 2
        told = capsys.readouterr().err
        assert f"is a link to {tmp_path}/nowhere" in told, words
