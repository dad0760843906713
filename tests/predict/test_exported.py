"""What an exported file gives is checked before it is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimicdet.config import InferenceSettings
from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.export.exported_file import ExportDescription, read_export_description
from mimicdet.predict import Detector
from mimicdet.predict.exported import ExportedModel

CATEGORIES = (Category(7, "cat"), Category(2, "dog"))
IMAGE = np.zeros((40, 60, 3), np.uint8)
INFERENCE = InferenceSettings(shorter_side=64, longer_side=64, score_threshold=0.1)
ROWS = 5


def describe(outputs: str) -> ExportDescription:
    return ExportDescription("onnx", outputs, "float32", 32, INFERENCE.model_dump(mode="json"), CATEGORIES)  # type: ignore[arg-type]


def outputs_of(kind: str, batch: int) -> list[Any]:
    boxes = np.tile(np.array([1, 2, 30, 20], np.float32), (batch, ROWS, 1))
    if kind == "raw":
        return [boxes, np.full((batch, ROWS, 2), 0.5, np.float32)]
    return [boxes, np.full((batch, ROWS), 0.5, np.float32), np.ones((batch, ROWS), np.int64)]


def detector(kind: str, change: Callable[[list[Any]], list[Any]]) -> Detector:
    def run(images: np.ndarray, sizes: np.ndarray) -> list[Any]:
        return change(outputs_of(kind, len(images)))

    file = ExportedModel(file=Path("model.onnx"), run=run, description=describe(kind))
    settings: Any = None
    return Detector(model=file, categories=CATEGORIES, settings=settings, inference=file.inference)


def put(number: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    def change(outputs: list[Any]) -> list[Any]:
        outputs[number] = value(outputs[number]) if callable(value) else value
        return outputs

    return change


def fill(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.flat[-1] = value
        return array

    return change


@pytest.mark.parametrize("kind", ["raw", "detections"])
def test_what_is_described_is_taken(kind: str) -> None:
    found = detector(kind, lambda outputs: outputs)(IMAGE)[0]
    assert len(found["scores"]) > 0
    assert set(found["names"]) <= {"cat", "dog"}


@pytest.mark.parametrize(
    ("kind", "change", "found"),
    [
        ("raw", lambda outputs: outputs[:1], "arrays of shapes"),
        ("raw", lambda outputs: [], "arrays of shapes"),
        ("raw", lambda outputs: [None, None], "arrays of shapes"),
        ("raw", put(0, lambda a: a[..., :3]), "arrays of shapes"),
        ("raw", put(0, lambda a: a[0]), "arrays of shapes"),
        ("raw", put(1, lambda a: np.tile(a, 40)), "arrays of shapes"),
        ("raw", put(1, lambda a: a[:, :3]), "arrays of shapes"),
        ("raw", put(1, fill(np.nan)), "infinite or no numbers"),
        ("raw", put(0, fill(np.inf)), "infinite or no numbers"),
        ("raw", put(1, lambda a: a.astype(np.int64)), "arrays of types"),
        ("raw", put(1, lambda a: a.astype(str)), "arrays of types"),
        ("detections", put(2, fill(2)), "class indices outside the 2 classes"),
        ("detections", put(2, fill(-2)), "class indices outside the 2 classes"),
        ("detections", put(2, fill(10**12)), "class indices outside the 2 classes"),
        ("detections", put(2, lambda a: a.astype(np.float32)), "arrays of types"),
        ("detections", lambda outputs: outputs[:2], "arrays of shapes"),
    ],
)
def test_what_is_not_described_is_refused(kind: str, change: Any, found: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.onnx: it gives .*{found}.*; export the model again$"):
        detector(kind, change)(IMAGE)


def test_a_runtime_that_fails_is_one_sentence() -> None:
    def fail(_: list[Any]) -> list[Any]:
        raise RuntimeError("Exception from src/inference/src/cpp/core.cpp:135:\nShapes do not match\nat node 5")

    with pytest.raises(UserError, match=r"^model\.onnx fails when it is run \(Shapes do not match\); export"):
        detector("raw", fail)(IMAGE)


def test_a_lack_of_memory_keeps_its_own_way_out() -> None:
    def fail(_: list[Any]) -> list[Any]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")

    with pytest.raises(UserError, match="ran out of memory on a batch of 1 image"):
        detector("raw", fail)(IMAGE)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("divisor", 0, "divisor: "),
        ("divisor", 32.5, "divisor: "),
        ("divisor", 10**12, "divisor: "),
        ("format", "openvino", "speaks of a file in openvino form, which model.onnx is not"),
        ("format", ["onnx"], "format: "),
        ("outputs", {"a": 1}, "outputs: "),
        ("precision", None, "precision: "),
        ("categories", [{"id": 1.5, "name": "cat"}], "categories: 0.id"),
        ("categories", [{"id": 1, "name": "cat"}] * 2, "two classes have the id 1"),
        ("categories", [], "categories: "),
        ("inference", 3, "inference: "),
        ("inference", {"shorter_side": -1}, "inference: shorter_side"),
        ("inference", {"shorter_side": 10**9}, "inference: shorter_side"),
        ("inference", {"unheard_of": 1}, "inference: unheard_of"),
        ("format_version", 1.5, "format_version"),
    ],
)
def test_absurd_descriptions_are_refused(tmp_path: Path, key: str, value: Any, found: str) -> None:
    file, beside = tmp_path / "model.onnx", tmp_path / "model.onnx.json"
    file.write_bytes(b"")
    describe("raw").write(file)
    assert read_export_description(file) == describe("raw")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {key: value}))
    with pytest.raises(UserError, match=r"model\.onnx\.json .*; export the model again$") as caught:
        ExportedModel(file=file, run=lambda *_: [], description=read_export_description(file))
    assert found in str(caught.value)
