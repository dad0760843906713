"""What the program beside an ONNX file says of files that are missing or damaged; for the rest see test_export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mimicdet.data.dataset import Category
from mimicdet.export import run_onnx
from mimicdet.export.exported_file import ExportDescription
from tests.export.conftest import INFERENCE


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a description, something that is no model, and photographs of which one is good."""
    monkeypatch.chdir(tmp_path)
    about = ExportDescription(
        format="onnx",
        outputs="detections",
        precision="float32",
        divisor=32,
        inference=INFERENCE.model_dump(mode="json"),
        categories=(Category(7, "cat"),),
    )
    Path("model.onnx.json").write_text(json.dumps(about.to_json()))
    Path("model.onnx").write_bytes(b"no model")
    Image.new("RGB", (90, 60)).save("good.jpg", quality=95)
    Path("half.jpg").write_bytes(Path("good.jpg").read_bytes()[:-40])
    Path("text.jpg").write_text("no image")
    Path("alone.onnx").touch()
    return tmp_path


def complaint(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run_onnx.main(words.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("none.onnx good.jpg", "none.onnx: there is no such file; name one that `mimicdet export` wrote"),
        ("alone.onnx good.jpg", "alone.onnx.json: there is no such file, which `mimicdet export` writes; keep the two"),
        ("model.onnx good.jpg", "model.onnx cannot be loaded ("),
    ],
)
def test_models(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in complaint(words, capsys)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (None, "Expecting value"),
        ("[" * 100_000, "recursion"),
        ("9" * 5_000, "digits"),
        ({"inference": None}, "not subscriptable"),
        ({"inference": {"flips": "none"}}, "it lacks 'longer_side'"),
        ({"categories": [{"id": 7}]}, "it lacks 'name'"),
    ],
)
def test_descriptions(change: dict[str, Any] | str | None, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    beside = Path("model.onnx.json")
    described = json.dumps(json.loads(beside.read_text()) | change) if isinstance(change, dict) else change or ""
    beside.write_text(described)
    message = complaint("model.onnx good.jpg", capsys)
    assert "model.onnx.json is damaged (" in message
    assert why in message


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("photograph", "message"),
    [
        ("none.jpg", "none.jpg cannot be read (No such file or directory); name a photograph"),
        ("text.jpg", "text.jpg cannot be read (cannot identify image file"),
        ("half.jpg", "half.jpg cannot be read (image file is truncated"),
        (".", ". cannot be read (Is a directory)"),
    ],
)
def test_photographs(
    photograph: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: None)
    assert message in complaint(f"model.onnx {photograph}", capsys)
