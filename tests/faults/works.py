"""What is interrupted: commands of mimicdet on toys, how each goes on, and what must be there before and after."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import socket
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import safetensors.torch
import torch
import yaml
from PIL import Image

from mimicdet.cli import main
from mimicdet.engine.run_folder import RunFolder
from mimicdet.files import replace_file
from mimicdet.settings_file import dump_settings
from tests.engine.test_resume import assert_same_run
from tests.fakes.toy import toy_data, toy_settings
from tests.faults import hooks
from tests.faults.forked import ROOT, Running, start

Words = list[str]


@dataclass(frozen=True)
class Inputs:
    """What all works read; made once."""

    folder: Path

    @property
    def cells(self) -> Path:
        """A data set in COCO form with the splits train and valid."""
        return self.folder / "cells"

    @property
    def settings(self) -> Path:
        """Settings of a training of ten steps."""
        return self.folder / "toy.yaml"

    @property
    def model(self) -> Path:
        """A trained model folder."""
        return self.folder / "run" / "model"

    @property
    def study(self) -> Path:
        """A study of one run on the cells."""
        return self.folder / "study.yaml"

    @property
    def finished_study(self) -> Path:
        """What the study leaves."""
        return self.folder / "study"


@dataclass(frozen=True)
class Work:
    """A command in a folder of its own: ``words(inputs, folder)`` are its arguments."""

    name: str
    words: Callable[[Inputs, Path], Words]
    processes: int = 1
    prepare: Callable[[Inputs, Path], None] = lambda inputs, folder: None
    same: Callable[[Path, Path], None] = lambda folder, straight: None
    """Raises AssertionError where a folder has not what an undisturbed one has; names of files are compared anyway."""
    done: Callable[[Path], bool] = lambda folder: False
    """Says whether a command that was cut off has finished all the same, and refuses to run again."""
    hooked: bool = True
    """Its writes are Python's own, and of this one process."""
    weight: int = 1
    """It takes about so many seconds; the slower, the fewer kills at random moments."""


def run_command(words: Words, folder: Path, hook: dict[str, Any] | None, traced: Path | None) -> int:
    """Runs a command in a process of its own; ``hook`` are arguments of ``hooks.watch``.

    An export takes what it would trace from a finished file, ``traced``, and neither loads nor compares its own: that
    is most of its time, and writes nothing.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # for what a study starts
    if traced is not None:
        from mimicdet.export import export

        def write_traced(network: Any, file: Path, **_: Any) -> None:
            replace_file(file, traced.read_bytes())

        export.write_onnx = export.write_torch = write_traced
        export.load = lambda *_, **__: None
        export.compare = lambda *_: []
    if hook is not None:
        hooks.watch(folder, **hook)
    return main(words)


def launch(
    work: Work,
    inputs: Inputs,
    folder: Path,
    words: Words | None = None,
    hook: dict[str, Any] | None = None,
    straight: Path | None = None,
) -> list[Running]:
    """Starts a work's processes; the hook is the first one's. ``straight`` has what an export need not trace again."""
    folder.mkdir(parents=True, exist_ok=True)
    words = work.words(inputs, folder) if words is None else words
    environment = {"OMP_NUM_THREADS": "1"}
    if work.processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        environment |= place | {"WORLD_SIZE": str(work.processes), "LOCAL_WORLD_SIZE": str(work.processes)}
    traced = None if straight is None or words[0] != "export" else straight / Path(words[-1]).name
    running = []
    for rank in range(work.processes):
        own = environment | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if work.processes > 1 else {})
        log = folder.with_name(f"{folder.name}.{rank}.log")
        arguments = words, folder, hook if rank == 0 else None, traced
        running.append(start(run_command, *arguments, log=log, environment=own))
    return running


def finish(work: Work, inputs: Inputs, folder: Path, straight: Path | None = None, timeout: float = 300) -> None:
    """Starts a work again, as its user would, and waits; AssertionError where that fails."""
    words, wanted = work.words(inputs, folder), 2 if work.done(folder) else 0
    if words[0] == "train" and RunFolder(folder / "run").holds_a_run:
        words = [*words, "--resume"]
    for running in launch(work, inputs, folder, words, straight=straight):
        code = running.ends(timeout)
        assert code == wanted, f"the next start fails: exit code {code}: {last_line(running.told)}"


def last_line(told: str) -> str:
    """Returns the last line that a process wrote, shortened."""
    lines = told.strip().splitlines()
    return lines[-1][-300:] if lines else "nothing was said"


def names(folder: Path) -> set[str]:
    """Returns the paths of all files in a folder, also hidden ones."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def same_names(folder: Path, straight: Path) -> None:
    """Raises AssertionError where a folder has other files than another one: leftovers, or something is missing."""
    here, there = names(folder), names(straight)
    assert not here - there, f"leftovers: {', '.join(sorted(here - there)[:3])}"
    assert not there - here, f"files are missing: {', '.join(sorted(there - here)[:3])}"


def same_bytes(folder: Path, straight: Path) -> None:
    """Raises AssertionError where a file has other bytes than in another folder."""
    for name in sorted(names(straight)):
        mine, other = ((place / name).read_bytes() for place in (folder, straight))
        # Paths of the folder itself stand in some
        assert mine.replace(bytes(folder), b"") == other.replace(bytes(straight), b""), f"other content: {name}"


def all_whole(folder: Path) -> None:
    """Raises AssertionError where a file that bears its final name is half-written; temporary ones begin with a dot."""
    for name in sorted(names(folder)):
        if not any(part.startswith(".") for part in Path(name).parts):
            try:
                _read_whole(folder / name)
            except Exception as error:
                raise AssertionError(f"half-written: {name} ({type(error).__name__}: {error})") from None


def _read_whole(file: Path) -> None:
    if file.suffix in (".pt", ".pt2"):
        with zipfile.ZipFile(file) as archive:
            assert archive.testzip() is None
    elif file.suffix == ".safetensors":
        safetensors.torch.load_file(file)
    elif file.suffix == ".json":
        json.loads(file.read_text(encoding="utf-8"))
    elif file.suffix == ".jsonl":
        for line in file.read_text(encoding="utf-8").splitlines()[:-1]:
            json.loads(line)
    elif file.suffix == ".yaml":
        assert yaml.safe_load(file.read_text(encoding="utf-8"))
    elif file.suffix in (".png", ".jpg"):
        with Image.open(file) as image:
            image.load()
    elif file.suffix == ".xml":
        ElementTree.parse(file)
    elif file.suffix == ".onnx":
        import onnx

        onnx.checker.check_model(onnx.load(file))


def last_checkpoint_is_usable(folder: Path) -> None:
    """Raises AssertionError where a run has checkpoints and the newest cannot be read."""
    files = [folder / "run" / "checkpoints" / name for name in ("last.pt", "previous.pt")]
    if newest := next(filter(Path.exists, files), None):
        try:
            torch.load(newest, weights_only=True)
        except Exception as error:
            raise AssertionError(f"the last checkpoint is broken: {newest} ({error})") from None


def make_inputs(folder: Path) -> Inputs:
    """Makes what the works read, by the program itself; takes some seconds."""
    inputs = Inputs(folder)
    for split, images in (("train", 10), ("valid", 4)):
        dataset = replace(toy_data(inputs.cells / split, images=images, empty=(3, 9)), split=split)
        (inputs.cells / f"{split}.json").write_text(json.dumps(dataset.to_coco()))
    settings = toy_settings()
    inputs.settings.write_text(dump_settings(settings))
    work = replace(TRAIN, words=lambda inputs, folder: _train(inputs, folder))
    (running,) = launch(work, inputs, folder)
    assert running.ends(300) == 0, running.told
    return inputs


def make_study(inputs: Inputs) -> None:
    """Adds a study and what it leaves."""
    nested = yaml.safe_load(inputs.settings.read_text())
    flat = {"task": nested["task"]}
    for section in (name for name, values in nested.items() if isinstance(values, dict)):
        flat |= {f"{section}.{key}": value for key, value in nested[section].items()}
    flat["train.epochs"] = 1
    del flat["train.seed"]  # the study's
    study = {"title": "Toy", "data": "cells", "val": "valid", "seeds": [0], "set": flat, "runs": [{"name": "alone"}]}
    inputs.study.write_text(json.dumps(study))
    (running,) = launch(STUDY, inputs, inputs.folder, _study(inputs, inputs.folder))
    assert running.ends(600) == 0, running.told


def _train(inputs: Inputs, folder: Path) -> Words:
    return ["train", str(inputs.cells), "--config", str(inputs.settings), "--out", str(folder / "run")]


def _study(inputs: Inputs, folder: Path) -> Words:
    return ["study", str(inputs.study), "--out", str(folder / "study"), "--samples", "20"]


def _predict(inputs: Inputs, folder: Path) -> Words:
    files = ["--json", str(folder / "found.json"), "--pictures", str(folder / "drawn")]
    return ["predict", str(inputs.model), str(inputs.cells / "valid"), *files]


def _export(kind: str, file: str) -> Callable[[Inputs, Path], Words]:
    return lambda inputs, folder: ["export", str(inputs.model), "--format", kind, "--out", str(folder / file)]


def _same_run(folder: Path, straight: Path) -> None:
    last_checkpoint_is_usable(folder)
    try:
        assert_same_run(folder / "run", straight / "run")
    except AssertionError as error:
        raise AssertionError(f"another run: {str(error).splitlines()[0]}") from None


def _same_table(folder: Path, straight: Path) -> None:
    tables = []
    for place in (folder, straight):
        rows = list(csv.DictReader((place / "study" / "table.csv").open(encoding="utf-8")))
        tables.append([{**row, "seconds": ""} for row in rows])
    assert tables[0] == tables[1], "another table of the study"


def _lay_finished_study(inputs: Inputs, folder: Path) -> None:
    shutil.copytree(inputs.finished_study, folder / "study", dirs_exist_ok=True)


TRAIN = Work("train", _train, same=_same_run, weight=2)
PAIR = Work("train, 2 processes", _train, processes=2, same=_same_run, weight=3)
PREDICT = Work("predict", _predict, same=same_bytes)
EXPORT = Work("export to ONNX", _export("onnx", "model.onnx"), same=same_bytes, weight=8)
STUDY = Work("study", _study, same=_same_table, hooked=False, weight=20)
WORKS = (
    TRAIN,
    PAIR,
    EXPORT,
    Work("export to torch", _export("torch", "model.pt2"), weight=6),
    Work(
        "convert",
        lambda inputs, folder: ["convert", str(inputs.cells), str(folder / "out"), "--to", "voc"],
        same=same_bytes,
        done=lambda folder: (folder / "out").exists(),
    ),
    Work(
        "cut",
        lambda inputs, folder: ["cut", str(inputs.cells), str(folder / "out"), "--tile", "40"],
        same=same_bytes,
        done=lambda folder: (folder / "out").exists(),
    ),
    PREDICT,
    Work("study, its table", _study, prepare=_lay_finished_study, same=_same_table),
    STUDY,
)


def work_hash(folder: Path) -> str:
    """Returns a hash of all files of a folder, for what must not have changed."""
    digest = hashlib.sha256()
    for name in sorted(names(folder)):
        digest.update(name.encode() + (folder / name).read_bytes())
    return digest.hexdigest()


__all__ = ["ROOT", "WORKS", "Inputs", "Work", "finish", "launch", "make_inputs", "make_study"]
