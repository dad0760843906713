"""What the program beside an ONNX file says of files that are missing or damaged; for the rest see test_export."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mimicdet.data import decode
from mimicdet.data.dataset import Category
from mimicdet.data.decode import read_image
from mimicdet.errors import UserError
from mimicdet.export import run_onnx
from mimicdet.export.exported_file import ExportDescription
from tests.export.conftest import INFERENCE
from tests.fakes import pixel_kinds


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
def test_a_name_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_onnx.main(["\x1b[2J\nerror: forged.onnx", "good.jpg"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: \\x1b[2J\\nerror: forged.onnx")
    assert shown.count("\n") == 1


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
        ({"categories": []}, "its categories cannot be so"),
        ({"categories": [{"id": 2**70, "name": "a"}]}, "its categories cannot be so"),
        ({"categories": [{"id": 1, "name": 1}]}, "its categories cannot be so"),
        *(({"divisor": value}, "its divisor cannot be so") for value in (0, -32, 1.5, "a", None, True, 10**7)),
        *(({"outputs": value}, "its outputs cannot be so") for value in ("x", 5, None)),
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
    ("name", "value"),
    [
        *(("flips", value) for value in ("xyz", 3, ["none"], None)),
        *(("shorter_side", value) for value in ("a", -3, 0, 10**9, math.nan, True, 64.5)),
        *(("longer_side", value) for value in (None, 0)),
        *(("max_detections", value) for value in (-1, 0, "k", 1.5)),
        *((name, value) for name in ("nms_iou", "score_threshold") for value in ("x", None, -1, 2, math.nan, True)),
    ],
)
def test_settings_of_a_description(name: str, value: object, capsys: pytest.CaptureFixture[str]) -> None:
    beside = Path("model.onnx.json")
    about = json.loads(beside.read_text())
    about["inference"][name] = value
    beside.write_text(json.dumps(about))
    assert f"is damaged (its inference.{name} cannot be so)" in complaint("model.onnx good.jpg", capsys)


class _Session:
    """Stands for a model of other outputs than its description says."""

    def __init__(self, outputs: list[np.ndarray] | None) -> None:
        self.outputs = outputs

    def run(self, *_: object) -> list[np.ndarray]:
        if self.outputs is None:
            raise RuntimeError("Non-zero status code returned\nand more")
        return self.outputs


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (None, "do not go together (Non-zero status code returned); export the model again"),
        ([np.zeros((1, 2, 4)), np.zeros((1, 2, 9))], "has other outputs or classes than its description"),
        ([np.zeros((1, 2, 4)), np.zeros((1, 2)), np.full((1, 2), 9)], "has other outputs or classes than"),
    ],
)
def test_a_model_that_is_not_as_described(
    outputs: list[np.ndarray] | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: _Session(outputs))
    assert message in complaint("model.onnx good.jpg", capsys)


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


def test_images_are_read_or_refused_as_the_package_does(tmp_path: Path) -> None:
    refused = 0
    for file in [*pixel_kinds.files(tmp_path), *_odd_files(tmp_path)]:
        try:
            expected = read_image(file)
        except UserError as error:
            refused += 1
            why = str(error).split(": ", 1)[1]
            with pytest.raises(run_onnx.UnusableFileError) as found:
                run_onnx._pixels(file)
            if "32-bit" in why or "65535" in why:
                assert why in str(found.value)
        else:
            np.testing.assert_array_equal(run_onnx._pixels(file), expected, err_msg=file.name)
    assert refused >= 8
    assert set(decode._FORMATS) == set(run_onnx.FORMATS)
    assert run_onnx.MAX_PIXELS == decode.MAX_PIXELS


def _odd_files(folder: Path) -> Iterator[Path]:
    """Files that are no images, or none that may be read."""
    texts = {"text.png": b"no image", "empty.png": b"", "program.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%EndComments\n"}
    for name, text in texts.items():
        (folder / name).write_bytes(text)
        yield folder / name
    os.mkfifo(folder / "pipe.png")
    yield folder / "pipe.png"
    large = folder / "large.png"
    Image.new("1", (17_600, 10_000)).save(large)
    yield large
    Image.new("RGB", (30, 20)).save(folder / "image.tga")  # a format that is not read
    yield folder / "image.tga"
