"""The commands one after the other, on a data set of rectangles and a model that an epoch takes a second of."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mimicdet.cli import main
from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.splits import load_dataset
from mimicdet.errors import UserError
from mimicdet.inference.coco_metrics import METRIC_NAMES, coco_metrics
from mimicdet.settings_file import dump_settings, load_settings
from tests.fakes.toy import SIDE, toy_data, toy_settings


def write_split(folder: Path, split: str, dataset: DetectionDataset) -> None:
    content = dataclasses.replace(dataset, split=split).to_coco()
    (folder / f"{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with the splits train and valid."""
    folder = tmp_path_factory.mktemp("data") / "cells"
    write_split(folder, "train", toy_data(folder / "train", images=6))
    write_split(folder, "valid", toy_data(folder / "valid", images=3, empty=(1,)))
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "toy.yaml"
    file.write_text(dump_settings(toy_settings(epochs=1, pictures=1)))
    return file


@pytest.fixture(scope="module")
def run(cells: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "toy"
    assert main(["train", str(cells), "--out", str(out), "--config", str(config), "--optim.lr", "0.02"]) == 0
    return out


def numbers(tmp_path: Path, *words: object) -> dict[str, Any]:
    """What ``mimicdet eval ... --json`` writes."""
    file = tmp_path / "deep" / "numbers.json"
    assert main(["eval", *map(str, words), "--json", str(file)]) == 0
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_train_leaves_what_it_should(run: Path, config: Path) -> None:
    for name in ("settings.yaml", "metrics.jsonl", "model/model.json", "model/model.safetensors", "curves.png"):
        assert (run / name).stat().st_size > 0
    assert len(list((run / "pictures").iterdir())) == 1
    settings = load_settings(config=run / "settings.yaml")
    assert settings.optim.lr == 0.02
    assert settings.model == load_settings(config=config).model


def test_train_says_what_it_found_and_where_the_model_is(
    cells: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_train = tmp_path / "cells"
    shutil.copytree(cells / "train", only_train / "train")
    shutil.copy(cells / "train.json", only_train)
    out = tmp_path / "run"
    words = ["train", str(only_train), "--out", str(out), "--config", str(config), "--train.pictures", "0"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "COCO, 2 classes" in said
    assert "errors: none" in said
    assert "has no validation split" in said
    assert f"the trained model is {out / 'model'}" in said
    assert_works_as_printed(said, out / "found", images=6)
    assert main(words) == 2  # a run is not overwritten
    assert "already holds a run" in capsys.readouterr().err
    assert main(["train", str(only_train), "--out", str(out), "--resume"]) == 0  # with its own settings
    assert main([*words, "--overwrite"]) == 0


def assert_works_as_printed(said: str, pictures: Path, *, images: int) -> None:
    """The command in training's last line, given as it stands, draws the images that the model was measured on."""
    program, *words = shlex.split(said.splitlines()[-1])
    assert program == "mimicdet"
    assert main(words) == 0
    assert len(list(pictures.iterdir())) == images


def test_the_last_line_of_training_is_a_command_that_works(
    cells: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also with spaces in names, and with data that are read in a way of their own."""
    data, out = shutil.copytree(cells, tmp_path / "my cells"), tmp_path / "my run"
    content = json.loads((data / "valid.json").read_text())
    content["annotations"][0]["bbox"][2] = -3
    (data / "valid.json").write_text(json.dumps(content))
    words = ["train", str(data), "--out", str(out), "--config", str(config), "--train.pictures", "0"]
    assert main([*words, "--data.max_faulty_boxes", "0.9"]) == 0
    assert_works_as_printed(capsys.readouterr().out, out / "found", images=3)
    assert main([*words, "--data.max_faulty_boxes", "0.9", "--overwrite"]) == 0  # what was drawn is not in the way


def test_what_cannot_start_leaves_the_old_run_and_no_new_one(
    cells: Path, config: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong weights, backbone or teacher are found before anything is removed or written."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    words = ["train", str(cells), "--config", str(config)]
    for wrong, message in (
        (["--model.weights", "nosuch.pth"], "nosuch.pth"),
        (["--model.backbone", "resnet5"], "did you mean"),
        (["--task", "distill", "--teacher", str(tmp_path / "nosuch")], "nosuch"),
        (["--task", "distill", "--teacher", str(out / "model")], "is part of the run that --overwrite would replace"),
    ):
        assert main([*words, *wrong, "--out", str(out), "--overwrite"]) == 2
        assert message in capsys.readouterr().err
        assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
        if str(out / "model") not in wrong:  # a good teacher of another run
            assert main([*words, *wrong, "--out", str(tmp_path / "new")]) == 2
            assert not (tmp_path / "new").exists()
            capsys.readouterr()


def test_results_never_replace_what_was_read(
    cells: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(cells, tmp_path / "cells")
    model = shutil.copytree(run / "model", tmp_path / "model")
    photo = next((data / "valid").glob("*.png"))
    for words in (
        ["check", str(data), "--json", str(data / "train.json")],
        ["check", str(data / "train.json"), "--json", str(data / "train.json")],
        ["eval", str(model), "--data", str(data), "--json", str(data / "valid.json")],
        ["eval", str(model), "--data", str(data), "--json", str(model / "model.json")],
        ["predict", str(model), str(photo.parent), "--json", str(photo)],
        ["predict", str(model), "--data", str(data), "--json", str(data / "valid.json")],
        ["check", str(data), "--json", str(data)],
    ):
        before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        assert main(words) == 2, words
        assert "name another file" in (told := capsys.readouterr().err) or "is a folder" in told
        assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    for _ in range(2):  # earlier results are replaced
        assert main(["check", str(data), "--json", str(tmp_path / "faults.json")]) == 0
    annotated, reading = (data / "valid.json").read_bytes(), [str(model), "--data", str(data), "--split", "valid"]
    for words, file in (
        (["check", str(data)], data / "valid"),
        (["eval", *reading], model),
        (["predict", *reading], data),
    ):
        for _ in range(2):  # nor are they read as annotations
            assert main([*words, "--json", str(file / "out.json")]) == 0
    assert (data / "valid.json").read_bytes() == annotated


def test_images_that_are_trained_and_measured_on_are_told(
    cells: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(cells), "--config", str(config), "--train.pictures", "0"]
    assert main([*words, "--out", str(tmp_path / "both"), "--split", "train+valid", "--val", "valid"]) == 0
    assert "3 of the 3 images of 'valid' are trained on too" in capsys.readouterr().out


def test_faulty_boxes_are_allowed_where_they_are_read(
    cells: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command that reads data can be told to, in the words of the message."""
    data = shutil.copytree(cells, tmp_path / "cells")
    content = json.loads((data / "valid.json").read_text())
    content["annotations"][0]["bbox"][2] = -3
    (data / "valid.json").write_text(json.dumps(content))
    commands = (
        ["check", str(data)],
        ["eval", str(run / "model"), "--data", str(data)],
        ["predict", str(run / "model"), "--data", str(data), "--json", str(tmp_path / "found.json")],
        ["explain", "alignment", str(run / "model"), "--data", str(data), "--out", str(tmp_path / "seen")],
        ["convert", str(data), str(tmp_path / "yolo"), "--to", "yolo"],
        ["cut", str(data), str(tmp_path / "tiles"), "--tile", str(SIDE)],
    )
    for words in commands:
        assert main(words) == 2
        assert "--max_faulty_boxes" in capsys.readouterr().err
        assert main([*words, "--max_faulty_boxes", "nan"]) == 2
        assert "a share from 0 to 1, not nan" in capsys.readouterr().err
    for words in commands:
        assert main([*words, "--max_faulty_boxes", "0.9"]) == 0


def test_eval_writes_cocos_numbers_and_classes(run: Path, cells: Path, tmp_path: Path) -> None:
    result = numbers(tmp_path, run / "model", "--data", cells)
    assert set(METRIC_NAMES) <= result.keys()
    assert list(result["per_class_AP"]) == ["red", "green"]
    assert (result["split"], result["images"], result["objects"]) == ("valid", 3, 2)
    record = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert {name: result[name] for name in METRIC_NAMES} == {name: record[name] for name in METRIC_NAMES}


def test_eval_is_the_same_for_the_same_data_in_another_form(run: Path, cells: Path, tmp_path: Path) -> None:
    expected = numbers(tmp_path, run / "model", "--data", cells)
    for form in ("yolo", "voc"):
        copy = tmp_path / form
        assert main(["convert", str(cells), str(copy), "--to", form]) == 0
        result = numbers(tmp_path, run / "model", "--data", copy)
        assert {name: result[name] for name in METRIC_NAMES} == {name: expected[name] for name in METRIC_NAMES}


def test_eval_of_one_tile_an_image_is_that_of_the_image(run: Path, cells: Path, tmp_path: Path) -> None:
    whole = numbers(tmp_path, run / "model", "--data", cells)
    tiled = numbers(tmp_path, run / "model", "--data", cells, "--tile", SIDE)
    assert tiled == whole
    assert numbers(tmp_path, run / "model", "--data", cells, "--tile", SIDE // 2)["detections"] != whole["detections"]


def test_eval_on_data_without_one_of_the_models_classes(run: Path, cells: Path, tmp_path: Path) -> None:
    red_only = tmp_path / "red"
    shutil.copytree(cells / "valid", red_only / "val")
    content = json.loads((cells / "valid.json").read_text())
    content["categories"] = [{"id": 1, "name": "red"}]
    content["annotations"] = [
        {"id": 1, "image_id": 100, "category_id": 1, "bbox": [2, 3, 20, 20], "area": 400, "iscrowd": 0}
    ]
    (red_only / "val.json").write_text(json.dumps(content))
    result = numbers(tmp_path, run / "model", "--data", red_only, "--inference.score_threshold", 0)
    assert result["per_class_AP"]["green"] is None
    assert result["AP"] == result["per_class_AP"]["red"] >= 0


def test_eval_takes_inference_settings_and_a_limit(
    run: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = numbers(tmp_path, run / "model", "--data", cells, "--inference.max_detections", 1)
    assert one["detections"] == 3
    crowded = tmp_path / "crowded"
    shutil.copytree(cells / "valid", crowded / "val")
    content = json.loads((cells / "valid.json").read_text())
    content["annotations"] = [
        {"id": n + 1, "image_id": 100, "category_id": 1, "bbox": [n, n, 20, 20], "area": 400, "iscrowd": 0}
        for n in range(12)
    ]
    (crowded / "val.json").write_text(json.dumps(content))
    capsys.readouterr()
    few = numbers(tmp_path, run / "model", "--data", crowded, "--limit", 11)
    assert "an image has 12 objects, and 11 detections count" in capsys.readouterr().out
    assert few["limit"] == 11
    assert few["detections"] <= 33
    numbers(tmp_path, run / "model", "--data", crowded, "--limit", 12)
    assert "note:" not in capsys.readouterr().out


def test_predict_gives_what_eval_counts(
    run: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, pictures = tmp_path / "found.json", tmp_path / "drawn"
    words = ["predict", str(run / "model"), "--data", str(cells), "--json", str(found), "--pictures", str(pictures)]
    assert main(words) == 0
    rows = json.loads(found.read_text())
    assert f"{len(rows)} detections in 3 images" in capsys.readouterr().out
    metrics = coco_metrics(load_dataset(cells, "val").to_coco(), rows)
    assert metrics["AP"] == numbers(tmp_path, run / "model", "--data", cells)["AP"]
    for file in pictures.iterdir():
        with Image.open(file) as picture:
            picture.verify()
    assert len(list(pictures.iterdir())) == 3


def test_predict_goes_on_after_a_bad_image_and_says_so(
    run: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(cells / "valid", photos)
    (photos / "1.png").write_bytes(b"no image")
    (photos / "3.HEIC").write_bytes(b"perhaps an image")
    found = tmp_path / "found.json"
    assert main(["predict", str(run / "model"), str(photos), "--json", str(found)]) == 2
    captured = capsys.readouterr()
    assert "1 of 3 images could not be read" in captured.err
    assert "left out, because their names do not end as an image's: 1 file (.heic)" in captured.out
    assert captured.err.count("\n") == 1
    assert {Path(row["file_name"]).name for row in json.loads(found.read_text())} <= {"0.png", "2.png"}


def test_predict_goes_on_after_a_picture_that_cannot_be_written(
    run: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "drawn" / "1.jpg").mkdir(parents=True)
    words = ["predict", str(run / "model"), str(cells / "valid"), "--json"]
    assert main([*words, str(tmp_path / "alone.json")]) == 0
    capsys.readouterr()
    assert main([*words, str(tmp_path / "found.json"), "--pictures", str(tmp_path / "drawn")]) == 2
    captured = capsys.readouterr()
    assert "detections in 3 images" in captured.out
    assert "1 of 3 pictures could not be written, and all else was: " in captured.err
    assert captured.err.count("\n") == 1
    assert (tmp_path / "found.json").read_bytes() == (tmp_path / "alone.json").read_bytes()
    assert sum(path.is_file() for path in (tmp_path / "drawn").iterdir()) == 2


def test_numbers_that_cannot_be_written_are_still_told(
    run: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, _: object) -> None:
        raise UserError(f"{file} cannot be written")

    monkeypatch.setattr("mimicdet.commands.eval.write_json", full)
    words = ["eval", str(run / "model"), "--data", str(cells), "--json", str(tmp_path / "numbers.json")]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert "AP50" in captured.out
    assert captured.err == f"error: {tmp_path}/numbers.json cannot be written\n"


def test_check_counts_faults_by_kind_and_ends_with_2(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert main(["check", str(cells), "--json", str(report)]) == 0
    assert json.loads(report.read_text())["errors"] == {}
    broken = tmp_path / "broken"
    shutil.copytree(cells, broken)
    (broken / "valid" / "2.png").unlink()
    capsys.readouterr()
    assert main(["check", str(broken), "--json", str(report)]) == 2
    captured = capsys.readouterr()
    assert json.loads(report.read_text())["errors"] == {"missing_image": 1}
    assert "missing_image" in captured.out
    assert "2.png" in captured.err
    assert captured.err.count("\n") == 1
    assert main(["check", str(broken), "--split", "train"]) == 0


def test_cut(cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cut", str(cells), str(tmp_path / "tiles"), "--tile", "40", "--overlap", "0"]) == 0
    assert "train: 24 tiles" in capsys.readouterr().out
    assert len(load_dataset(tmp_path / "tiles", "valid")) == 12


def test_presets_are_listed_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    assert "paper_r50_1x\n    MimicDet as published" in capsys.readouterr().out
    assert main(["presets", "small"]) == 0
    file = tmp_path / "mine.yaml"
    file.write_text(capsys.readouterr().out)
    assert load_settings(config=file) == load_settings(preset="small")


def test_under_torchrun_an_error_is_told_once(config: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "mimicdet",
        "train",
        str(tmp_path / "nothing"),
        "--out",
        str(tmp_path / "run"),
        "--config",
        str(config),
    ]
    outcome = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert outcome.returncode != 0
    assert outcome.stderr.count("error: ") == 1
    assert outcome.stderr.count("there is no such file or folder") == 1
    own = outcome.stderr.partition("torch/distributed")[0]  # torchrun adds a report of its own
    assert "Traceback" not in own


def test_nothing_to_measure_by(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A validation split without objects: AP is a dash for people and null in files."""
    write_split(tmp_path / "data", "train", toy_data(tmp_path / "data" / "train", images=4, empty=()))
    write_split(tmp_path / "data", "val", toy_data(tmp_path / "data" / "val", images=2, empty=(0, 1)))
    out = tmp_path / "run"
    assert main(["train", str(tmp_path / "data"), "--out", str(out), "--config", str(config)]) == 0
    told = capsys.readouterr()
    assert "split val: none of its images has an object" in told.out
    assert "AP - on 'val', which has no object to measure by: the last weights are kept" in told.out
    assert "best" not in told.out
    assert "AP -, AP50 -" in told.err
    found = numbers(tmp_path, out / "model", "--data", tmp_path / "data")
    assert {found[name] for name in METRIC_NAMES} == {None}
    assert found["per_class_AP"] == {"red": None, "green": None}
    assert capsys.readouterr().out.count(" - ") > 10
    study = tmp_path / "study.yaml"
    study.write_text("title: T\nabout: A\nruns: [{name: one, preset: small}]\n")
    assert main(["study", str(study), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "s")]) == 2
    assert "no image of 'val' has an object, so that no AP is defined" in capsys.readouterr().err
