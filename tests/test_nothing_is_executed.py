"""Whatever a file of others holds, opening it runs nothing: a payload of each kind is tried on each way in."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mimicdet import Detector
from mimicdet.build import build_model
from mimicdet.cli import main
from mimicdet.config import InferenceSettings, MimicDetSettings
from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.export.exported_file import ExportDescription
from mimicdet.lab.study.evidence import EVIDENCE, read_evidence
from mimicdet.settings_file import dump_settings
from mimicdet.tasks.build import read_mimic_run
from mimicdet.weights.checkpoint_file import newest_checkpoint
from mimicdet.weights.pretrained import read_weights
from tests.fakes.small_sets import write_coco
from tests.fakes.toy import toy_settings

MODEL = MimicDetSettings.Model(
    backbone="test_resnet", weights="random", pyramid_channels=8, head_channels=8, head_features=8
)


class Touch:
    """Unpickled, it makes the file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that a payload would make."""
    return tmp_path / "broken-into"


def as_torch_zip(mark: Path) -> bytes:
    torch.save({"state_dict": {"a": Touch(mark)}}, buffer := io.BytesIO())
    return buffer.getvalue()


def as_torch_legacy(mark: Path) -> bytes:
    torch.save({"a": Touch(mark)}, buffer := io.BytesIO(), _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def as_pickle(mark: Path) -> bytes:
    return pickle.dumps(Touch(mark), protocol=2)


PICKLES = (as_torch_zip, as_torch_legacy, as_pickle)


@pytest.fixture(scope="module")
def program() -> bytes:
    """A file of ``torch.export``, before anything is put into it."""

    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images.float().mean((1, 2, 3)), sizes

    shapes = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 2, dtype=torch.int64)
    torch.export.save(torch.export.export(Network(), shapes), buffer := io.BytesIO())
    return buffer.getvalue()


def with_payload(program: bytes, mark: Path) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as old, zipfile.ZipFile(written, "w") as new:
        names = old.namelist()
        assert any("sample_inputs" in name for name in names)
        for name in names:
            new.writestr(name, as_torch_zip(mark) if "sample_inputs" in name else old.read(name))
    return written.getvalue()


def describe(file: Path, format: Any) -> None:
    inference = InferenceSettings().model_dump(mode="json")
    ExportDescription(format, "raw", "float32", 32, inference, (Category(1, "a"),)).write(file)


def refused(words: list[str], mark: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command, which must end with a sentence and without the file; returns the sentence."""
    assert main(words) == 2
    assert not mark.exists()
    printed, told = capsys.readouterr()
    assert told.startswith("error: ")
    assert "Traceback" not in told
    assert "Falling back" not in printed
    return told


@pytest.mark.parametrize("payload", PICKLES)
def test_the_payload_is_real(mark: Path, payload: Callable[[Path], bytes]) -> None:
    torch.load(io.BytesIO(payload(mark)), weights_only=False) if payload is not as_pickle else pickle.loads(
        payload(mark)
    )
    assert mark.exists()


def test_the_payload_in_a_program_of_torch_is_real(mark: Path, program: bytes) -> None:
    """Else the refusal of these files could go."""
    with pytest.raises(Exception):  # noqa: B017, PT011  after the payload has run
        torch.export.load(io.BytesIO(with_payload(program, mark)))
    assert mark.exists()


def ways_in(model: Path, folder: Path) -> list[list[str]]:
    Image.new("RGB", (40, 30)).save(folder / "photo.png")
    data = write_coco(folder / "data")
    training = ["train", str(data), "--out", str(folder / "run"), "--task", "distill", "--preset", "small_gfl"]
    return [
        ["predict", str(model), str(folder / "photo.png"), "--json", str(folder / "found.json")],
        ["eval", str(model), "--data", str(data), "--split", "train"],
        ["bench", str(model), "--size", "32x32", "--rounds", "1"],
        ["export", str(model), "--format", "torch", "--out", str(folder / "out.pt2")],
        [*training, "--teacher", str(model), "--model.backbone", "test_resnet", "--model.weights", "random"],
    ]


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.safetensors"])
@pytest.mark.parametrize("payload", PICKLES)
def test_files_of_weights(
    tmp_path: Path, mark: Path, name: str, payload: Callable[[Path], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_bytes(payload(mark))
    for words in ways_in(file, tmp_path):
        assert name in refused(words, mark, capsys)
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_weights(file, "resnet50")
    assert not mark.exists()


def test_a_model_folder(tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    model = build_model(MODEL, num_classes=1)
    categories, inference = (Category(1, "a"),), InferenceSettings()
    Detector(model=model, categories=categories, settings=MODEL, inference=inference).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(as_torch_zip(mark))
    for words in ways_in(folder, tmp_path):
        assert "model.safetensors is broken" in refused(words, mark, capsys)
    (folder / "model.json").write_bytes(as_pickle(mark))
    for words in ways_in(folder, tmp_path):
        assert "model.json is broken" in refused(words, mark, capsys)
    for name in ("hf-hub:somebody/something", "local-dir:/tmp", "test_resnet.hf-hub:somebody/something"):
        written = {"family": "mimicdet", "model": MODEL.model_dump() | {"backbone": name}, "inference": {}}
        about = {"format_version": 1, **written, "categories": [{"id": 1, "name": "a"}]}
        (folder / "model.json").write_text(json.dumps(about))
        refused(ways_in(folder, tmp_path)[0], mark, capsys)


def test_a_program_of_torch(tmp_path: Path, mark: Path, program: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.pt2"
    describe(file, "torch")
    for content in (with_payload(program, mark), as_torch_zip(mark), as_pickle(mark)):
        file.write_bytes(content)
        for words in ways_in(file, tmp_path):
            told = refused(words, mark, capsys)
            trusted = words[0] in ("predict", "eval", "bench")
            assert ("if you trust whoever made it, say so with --trust" in told) is trusted
    for name, format in (("model.onnx", "torch"), ("model.pt2", "onnx"), ("model.xml", "torch")):
        (tmp_path / name).write_bytes(with_payload(program, mark))
        describe(tmp_path / name, format)
        told = refused(ways_in(tmp_path / name, tmp_path)[0], mark, capsys)
        assert f"speaks of a file in {format} form" in told


@pytest.mark.parametrize(("name", "format"), [("model.onnx", "onnx"), ("model.xml", "openvino")])
def test_files_of_other_runtimes(
    tmp_path: Path, mark: Path, name: str, format: str, program: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[format])
    file = tmp_path / name
    describe(file, format)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    entity = f'<!DOCTYPE net [<!ENTITY x SYSTEM "file://{secret}">]><net name="&x;"/>'.encode()
    for content in (as_torch_zip(mark), as_pickle(mark), with_payload(program, mark), entity):
        file.write_bytes(content)
        for words in ways_in(file, tmp_path)[:3]:
            assert f"{name} cannot be loaded" in refused(words, mark, capsys)


@pytest.mark.parametrize("payload", PICKLES)
def test_a_run_folder(tmp_path: Path, mark: Path, payload: Callable[[Path], bytes]) -> None:
    """Its checkpoint is read by --resume, and for its T-head."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.pt").write_bytes(payload(mark))
    settings = toy_settings()
    (tmp_path / "settings.yaml").write_text(dump_settings(settings))
    model = build_model(settings.model, num_classes=1)
    detector = Detector(
        model=model, categories=(Category(1, "a"),), settings=settings.model, inference=settings.inference
    )
    detector.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"last\.pt is broken"):
        newest_checkpoint(tmp_path / "checkpoints")
    with pytest.raises(UserError, match="is not the checkpoint of"):
        read_mimic_run(tmp_path)
    assert not mark.exists()


def test_yaml_of_studies_and_settings(tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    payload = f"title: !!python/object/apply:os.mkdir ['{mark}']\n"
    yaml.unsafe_load(payload)
    assert mark.exists()
    mark.rmdir()
    file = tmp_path / "evil.yaml"
    file.write_text(payload)
    data = write_coco(tmp_path / "data")
    assert "evil.yaml" in refused(["study", str(file), "--data", str(data), "--out", str(tmp_path / "s")], mark, capsys)
    words = ["train", str(data), "--out", str(tmp_path / "run"), "--config", str(file)]
    assert "evil.yaml" in refused(words, mark, capsys)


def test_evidence_of_a_study(tmp_path: Path, mark: Path) -> None:
    np.savez(tmp_path / EVIDENCE, boxes=np.array([Touch(mark)], dtype=object))
    with pytest.raises(UserError, match="is damaged"):
        read_evidence(tmp_path)
    assert not mark.exists()
