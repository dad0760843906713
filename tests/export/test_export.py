"""Exported files hold the same detector, at any size, and take its place in every command."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import cbook
from PIL import Image

from mimicdet import Detector
from mimicdet.build import load_model
from mimicdet.cli import main
from mimicdet.data.decode import read_image
from mimicdet.errors import UserError
from mimicdet.export.export import compare, export_detector, require_place
from mimicdet.export.exported_file import load
from mimicdet.export.network import RawNetwork
from mimicdet.export.write import PACKAGES
from mimicdet.files import is_leftover
from tests.fakes.detector import make_dataset

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
ALL_OF_THEM = pytest.mark.slow
"""An export takes half a minute; the default run makes one of each runtime that needs no other."""
KINDS = [
    pytest.param("onnx", "detections"),
    pytest.param("onnx", "raw", marks=ALL_OF_THEM),
    pytest.param("openvino", "detections", marks=ALL_OF_THEM),
    pytest.param("torch", "detections", marks=ALL_OF_THEM),
    pytest.param("torch", "raw"),
]


class Files(dict[tuple[str, str], Path]):
    """Every kind of file, made by the command line as a user would, once, when first asked for."""

    def __init__(self, model: Path, folder: Path, photograph: Path) -> None:
        super().__init__()
        self.model, self.folder, self.photograph = model, folder, photograph
        self.printed: dict[tuple[str, str], str] = {}

    def __missing__(self, kind: tuple[str, str]) -> Path:
        (folder := self.folder / "-".join(kind)).mkdir()
        file = folder / f"model{SUFFIXES[kind[0]]}"
        words = ["export", str(self.model), "--format", kind[0], "--outputs", kind[1], "--out", str(file)]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main([*words, "--images", str(self.photograph)]) == 0
        self[kind], self.printed[kind] = file, printed.getvalue()
        return file


@pytest.fixture(scope="session")
def exported(model_folder: Path, photographs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(model_folder, tmp_path_factory.mktemp("files"), photographs[0])


def save_coco(folder: Path) -> Path:
    """A data set of five photographs, the same ones to train and to validate on; on grey ones all places would tie."""
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        dataset = make_dataset(folder / split)
        for i, record in enumerate(dataset.images):
            with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as portrait:
                portrait.rotate(17 * i).resize((record.width, record.height)).save(record.file)
        (folder / f"{split}.json").write_text(json.dumps(dataset.to_coco()))
    return folder


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert len(expected["scores"]) > 3
    assert found["names"] == expected["names"]
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.02)


@pytest.mark.parametrize(("format", "outputs"), KINDS)
def test_a_file_detects_what_its_model_detects(
    exported: Files, model_folder: Path, photographs: list[Path], format: str, outputs: str
) -> None:
    """Two images of different shapes at once, at other sizes than that of the export, with and without flips."""
    model, file = (
        Detector.from_pretrained(model_folder),
        Detector.from_pretrained(exported[format, outputs], trust=True),
    )
    assert file.classes == model.classes
    for flips in ("none", "horizontal"):
        for detector in (model, file):
            detector.inference = detector.inference.model_copy(update={"flips": flips, "batch_size": 2})
        for found, expected in zip(file(photographs), model(photographs), strict=True):
            assert_same(found, expected)
    assert_same(file(photographs[0], tile=150)[0], model(photographs[0], tile=150)[0])


def test_the_command_prints_the_differences_and_says_what_it_wrote(exported: Files) -> None:
    file = exported["torch", "raw"]
    lines = exported.printed["torch", "raw"].splitlines()
    rows = [line.split() for line in lines if line.startswith(tuple("123"))]
    assert [row[:5] for row in rows] == [
        ["1", "x", "320", "x", "448"],
        ["2", "x", "256", "x", "352"],
        ["1", "x", "608", "x", "416"],
        ["3", "x", "96", "x", "160"],
    ]
    for row in rows:
        assert int(row[5]) > 3
        assert float(row[7]) <= 0.01
        assert float(row[8]) <= 1e-4
    assert sorted(path.name for path in file.parent.iterdir()) == ["model.pt2", "model.pt2.json"]
    about = json.loads((file.parent / "model.pt2.json").read_text())
    assert about["inference"]["shorter_side"] == about["preprocessing"]["resize"]["shorter_side"] == 200
    assert about["categories"] == [{"id": 7, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 91, "name": "newt"}]


def test_eval_and_predict_take_a_file_for_a_model(exported: Files, model_folder: Path, tmp_path: Path) -> None:
    data = save_coco(tmp_path / "data")
    results = []
    for name, model in (("folder", model_folder), ("file", exported["onnx", "detections"])):
        numbers, found = tmp_path / f"{name}.json", tmp_path / f"{name}-found.json"
        assert main(["eval", str(model), "--data", str(data), "--json", str(numbers)]) == 0
        assert main(["predict", str(model), "--data", str(data), "--json", str(found)]) == 0
        rows = json.loads(found.read_text())
        results.append((json.loads(numbers.read_text())["AP"], [(r["image_id"], r["category_id"]) for r in rows]))
        assert len(rows) > 3
    assert sorted(results[0][1]) == sorted(results[1][1])
    assert results[0][0] == pytest.approx(results[1][0])


def test_a_file_that_differs_is_not_written(
    exported: Files, model_folder: Path, photographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are moved a little; the earlier file at that place stays as it was."""
    loaded = load_model(model_folder)
    content = exported["torch", "raw"].read_bytes()
    file = tmp_path / "model.pt2"
    file.write_text("earlier")

    def load_another(path: Path, format: str, trust: bool) -> Any:
        run = load(path, format, trust=trust)  # type: ignore[arg-type]
        return lambda images, sizes: [output + 2e-4 * (i == 1) for i, output in enumerate(run(images, sizes))]

    def write_again(network: object, file: Path, divisor: int) -> None:
        file.write_bytes(content)

    monkeypatch.setattr("mimicdet.export.export.load", load_another)
    monkeypatch.setattr("mimicdet.export.export.write_torch", write_again)
    with pytest.raises(UserError, match=r"model.pt2 is not written: on 1 image\(s\) of 320 x 448 pixels"):
        export_detector(
            loaded.model,
            file,
            format="torch",
            outputs="raw",
            inference=loaded.inference.model_dump(mode="json"),
            categories=loaded.categories,
            photographs=[read_image(photographs[0])],
        )
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert file.read_text() == "earlier"


@pytest.mark.parametrize(
    ("box", "score", "rows", "equal"),
    [
        (0, 0, 0, True),
        (0.009, 0, 0, True),
        (0.011, 0, 0, False),
        (0, 9e-5, 0, True),
        (0, 1.1e-4, 0, False),
        (0, 0, 3, False),
        (5, 0, 0, False),
    ],
)
def test_what_counts_as_equal(
    model_folder: Path, photographs: list[Path], box: float, score: float, rows: int, equal: bool
) -> None:
    network = RawNetwork(model=load_model(model_folder).model, top=200).eval()
    images = [read_image(file) for file in photographs]

    def run(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            boxes, scores = (t.numpy().copy() for t in network(torch.from_numpy(images), torch.from_numpy(sizes)))
        boxes[:, 3] += box
        scores[:, 4] += score
        scores[:, :rows] = 0
        return [boxes[:, ::-1], scores[:, ::-1]]

    assert all(d.is_equal for d in compare(network, run, images, "raw")) is equal


def test_what_is_fixed_in_a_file_cannot_be_asked_for(exported: Files) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    file, raw = exported["onnx", "detections"], Detector.from_pretrained(exported["torch", "raw"], trust=True)
    for option, message in (
        ({"nms_iou": 0.7}, r"inference.nms_iou is 0.5 in this exported file, not 0.7; .* or with --outputs raw"),
        ({"score_threshold": 0.1}, r"inference.score_threshold is 0.3 or more in this exported file"),
        ({"max_detections": 50}, r"inference.max_detections is 40 or less in this exported file"),
    ):
        with pytest.raises(UserError, match=message):
            Detector.from_pretrained(file)(image, **option)
        raw(image, **option)
    assert len(Detector.from_pretrained(file)(image, max_detections=2, score_threshold=0.31)[0]["scores"]) <= 2
    raw.inference = raw.inference.model_copy(update={"positions": 20})
    with pytest.raises(UserError, match=r"inference.positions is 300 .* --inference.positions 20$"):
        raw(image)
    with pytest.raises(UserError, match="runs on the CPU here, not on cuda"):
        raw.to("cuda")
    with pytest.raises(UserError, match="cannot be saved in another form"):
        raw.save_pretrained("anywhere")


def test_broken_files_are_explained(exported: Files, tmp_path: Path) -> None:
    for kind in (("onnx", "detections"), ("torch", "raw")):
        good = exported[kind]
        file = tmp_path / good.name
        with pytest.raises(UserError, match=r"there is no .*\.json beside it"):
            Detector.from_pretrained(file, trust=True)
        beside = tmp_path / (good.name + ".json")
        beside.write_text((good.parent / beside.name).read_text())
        file.write_bytes(good.read_bytes()[:1000])
        with pytest.raises(UserError, match=r"cannot be loaded .*; export the model again"):
            Detector.from_pretrained(file, trust=True)
        beside.write_text(beside.read_text().replace(f'"{kind[1]}"', '"rare"', 1))
        with pytest.raises(UserError, match="is broken"):
            Detector.from_pretrained(file, trust=True)
        beside.write_text('{"format_version": 99}')
        with pytest.raises(UserError, match="newer than 1; update mimicdet"):
            Detector.from_pretrained(file, trust=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--format onnx --out x.xml", "x.xml: the name of a file in onnx form must end with .onnx"),
        ("--format onnx --out nowhere/x.onnx", "nowhere: there is no such folder"),
        ("--format torch --precision fp16", "--precision fp16 needs --format onnx, not torch"),
        ("--format onnx --precision int8", "--precision int8 needs --data"),
        ("--format tflite", "--format"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    model_folder: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(model_folder), *words.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data nosuch --precision fp16", "nosuch"),
        ("--data half --precision fp16", "there is no split 'val'"),
        ("--data cats", "the model does not know the class 'horse'"),
        ("--out folder.onnx", "folder.onnx is a folder; name a file to write"),
        ("--out locked/x.onnx", "x.onnx cannot be written (locked: Permission denied); choose another folder"),
    ],
)
def test_all_that_is_wrong_is_said_before_the_work(
    model_folder: Path,
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("mimicdet.api.export_detector", lambda *_, **__: pytest.fail("it was exported"))
    monkeypatch.chdir(tmp_path)
    for name in ("folder.onnx", "locked"):
        Path(name).mkdir()
    if "half" in words:
        save_coco(tmp_path / "half")
        Path("half/val.json").unlink()
    if "cats" in words:
        save_coco(tmp_path / "cats")
        for split in ("train", "val"):
            file = tmp_path / f"cats/{split}.json"
            file.write_text(file.read_text().replace('"cat"', '"horse"'))
    if "locked" in words:  # in place of permissions, which root has all the same
        monkeypatch.setattr("tempfile.TemporaryFile", _refuse)
    before = sorted(tmp_path.rglob("*"))
    out = [] if "--out" in words else ["--out", "x.onnx"]
    assert main(["export", str(model_folder), "--format", "onnx", *words.split(), *out]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def _refuse(**_: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_signal_leaves_nothing(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a batch system ends a command: the temporary folder goes with it."""
    folders = []

    def write(network: object, file: Path, divisor: int) -> None:
        folders.append(file.parent.name)
        file.write_bytes(b"half")
        signal.raise_signal(signal.SIGTERM)

    def die(*_: object) -> None:  # what SIGTERM does where nobody handles it, less the death of the tests
        pytest.fail("ended without tidying up")

    before = signal.signal(signal.SIGTERM, die)
    monkeypatch.setattr("mimicdet.export.export.write_torch", write)
    try:
        assert main(["export", str(model_folder), "--format", "torch", "--out", str(tmp_path / "x.pt2")]) == 130
        assert signal.getsignal(signal.SIGTERM) is die
    finally:
        signal.signal(signal.SIGTERM, before)
    assert is_leftover(folders[0])
    assert not any(tmp_path.iterdir())


def test_a_link_is_written_through_and_a_full_disk_leaves_what_was_there(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b"first"

    def write(network: object, file: Path, divisor: int) -> None:
        file.write_bytes(content)

    monkeypatch.setattr("mimicdet.export.export.write_torch", write)
    monkeypatch.setattr("mimicdet.export.export.load", lambda *_, **__: None)
    monkeypatch.setattr("mimicdet.export.export.compare", lambda *_: [])
    (tmp_path / "far").mkdir()
    (tmp_path / "x.pt2").symlink_to("far/y.pt2")
    words = ["export", str(model_folder), "--format", "torch", "--out", str(tmp_path / "x.pt2")]
    assert main(words) == 0
    assert (tmp_path / "x.pt2").is_symlink()
    assert (tmp_path / "far/y.pt2").read_bytes() == content
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    fsync, times = os.fsync, 0

    def full_at_the_last(descriptor: int) -> None:
        nonlocal times
        times += 1
        if times == 3:  # the description among the temporary files, and beside the file, and the file
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    content = b"second"
    monkeypatch.setattr(os, "fsync", full_at_the_last)
    capsys.readouterr()
    assert main([*words, "--outputs", "raw"]) == 2
    assert "x.pt2 cannot be written (No space left on device)" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "x.pt2", "x.pt2.json"]


def test_a_name_without_room_for_the_description_is_refused_before_the_work(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mimicdet.api.export_detector", lambda *_, **__: pytest.fail("it was exported"))
    words = ["export", str(model_folder), "--format", "torch", "--out", str(tmp_path / ("z" * 251 + ".pt2"))]
    assert main(words) == 2
    assert "z.pt2.json cannot be written" in capsys.readouterr().err


def test_missing_packages_are_named(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PACKAGES, "onnx", ("onnx", "no_such_package"))
    assert main(["export", str(model_folder), "--format", "onnx", "--out", str(tmp_path / "x.onnx")]) == 2
    assert "exporting to onnx needs no_such_package: pip install no_such_package, or choose" in capsys.readouterr().err


WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "mimicdet"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("outputs", ["detections", pytest.param("raw", marks=ALL_OF_THEM)])
@pytest.mark.parametrize("flips", ["none", "all"])
def test_the_program_beside_an_onnx_file_runs_it_without_torch(
    exported: Files,
    model_folder: Path,
    photographs: list[Path],
    tmp_path: Path,
    outputs: str,
    flips: str,
) -> None:
    """On an image that is not resized the two give the same; Pillow's and torchvision's resizing differ by a grey."""
    image = tmp_path / "right-size.png"
    Image.open(photographs[0]).resize((200, 260)).save(image)
    file = exported["onnx", outputs]
    for path in (file, Path(f"{file}.json"), file.with_name("run_onnx.py")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    beside = tmp_path / "model.onnx.json"
    beside.write_text(beside.read_text().replace('"flips": "none"', f'"flips": "{flips}"'))
    words = [sys.executable, "-c", WITHOUT_TORCH, "run_onnx.py", "model.onnx", image.name]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    detector = Detector.from_pretrained(model_folder)
    detector.inference = detector.inference.model_copy(update={"flips": flips})
    assert_same(found, detector(image)[0])


@ALL_OF_THEM
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precision_is_measured_on_data(
    model_folder: Path, tmp_path: Path, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save_coco(tmp_path / "data")
    file = tmp_path / "model.onnx"
    words = ["export", str(model_folder), "--format", "onnx", "--precision", precision, "--data", str(data)]
    assert main([*words, "--out", str(file)]) == 0
    shown = capsys.readouterr().out
    assert f"model.onnx ({precision})" in shown
    assert "AP50" in shown
    assert json.loads((tmp_path / "model.onnx.json").read_text())["precision"] == precision
    import onnx

    types = {t.data_type for t in onnx.load(file).graph.initializer}
    assert {"fp16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}[precision] in types


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x05\x06" + bytes(18)])
def test_of_a_broken_torch_file_torch_itself_says_nothing(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.pt2").write_bytes(content)
    with pytest.raises(
        UserError, match=r"x\.pt2 cannot be loaded \(it is cut off, or has changed .*\); export the model"
    ):
        load(tmp_path / "x.pt2", "torch", trust=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("format", "beside"), [("torch", "x.pt2.json"), ("onnx", "run_onnx.py"), ("openvino", "x.bin")]
)
def test_what_cannot_be_written_beside_it_is_told_before_the_work(tmp_path: Path, format: Any, beside: str) -> None:
    (tmp_path / beside).symlink_to("nowhere/x")
    with pytest.raises(UserError, match=f"{beside} is a link to .*/nowhere/x, and there is no folder"):
        require_place((tmp_path / "x").with_suffix(SUFFIXES[format]), format)
