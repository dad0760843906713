"""Checkpoints: whole or not there, of this run or refused, never unpickled."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mimicdet.config import MimicDetSettings, Settings
from mimicdet.engine.checkpoint import MAY_CHANGE, require_same_run, save_checkpoint, training_data_identity
from mimicdet.errors import UserError
from mimicdet.settings_file import FIELDS
from mimicdet.weights.checkpoint_file import BROKEN, FORMAT, LAST, PREVIOUS, load_checkpoint, newest_checkpoint, seal
from tests.fakes.toy import toy_data, toy_settings


def state(step: int, size: int = 1000) -> dict[str, Any]:
    return {"step": step, "weights": {"w": torch.full((size,), float(step))}, "nothing": None, "names": ["a"]}


def step_of(file: Path | None) -> int:
    assert file is not None
    return load_checkpoint(file)["step"]  # type: ignore[no-any-return]


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == (None, None)
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]
    assert (step_of(tmp_path / LAST), step_of(tmp_path / PREVIOUS)) == (3, 2)
    assert newest_checkpoint(tmp_path) == (tmp_path / LAST, None)
    loaded = load_checkpoint(tmp_path / LAST)
    assert torch.equal(loaded["weights"]["w"], torch.full((1000,), 3.0))
    assert (loaded["nothing"], loaded["names"]) == (None, ["a"])


def cut_short(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    at = content.index(torch.full((1000,), 2.0).numpy().tobytes()) + 1717
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, lambda content: b""])
def test_a_broken_last_one_is_passed_over_and_told(tmp_path: Path, damage: Any) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, state(step))
    (tmp_path / LAST).write_bytes(damage((tmp_path / LAST).read_bytes()))
    file, notice = newest_checkpoint(tmp_path)
    assert step_of(file) == 1
    assert notice is not None
    assert notice.startswith(f"{tmp_path / LAST} is broken (")
    assert f"going on from {tmp_path / PREVIOUS}" in notice


def test_a_crash_between_the_two_renames_leaves_the_previous_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1))
    os.replace(tmp_path / LAST, tmp_path / PREVIOUS)
    file, notice = newest_checkpoint(tmp_path)
    assert step_of(file) == 1
    assert notice == f"{tmp_path / LAST} is not there; going on from {tmp_path / PREVIOUS}, the one before"


@pytest.mark.parametrize("target", ["gone.pt", LAST])
def test_a_last_one_that_is_a_link_to_nothing_is_told(tmp_path: Path, target: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, state(step))
    (tmp_path / LAST).unlink()
    (tmp_path / LAST).symlink_to(target)
    file, notice = newest_checkpoint(tmp_path)
    assert step_of(file) == 1
    assert notice == f"{tmp_path / LAST} is not there; going on from {tmp_path / PREVIOUS}, the one before"
    save_checkpoint(tmp_path, state(3))
    assert step_of(newest_checkpoint(tmp_path)[0]) == 3
    assert step_of(tmp_path / PREVIOUS) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"format": "other"}, "it holds no mimicdet checkpoint 2"),
        ([1], "it holds no mimicdet checkpoint 2"),
        (Path("x"), "it holds no mimicdet checkpoint 2"),
        ({"format": FORMAT, "task": {}}, "it lacks the progress of a run"),
        ({"format": FORMAT, "task": {}, "progress": [1]}, "it lacks the progress of a run"),
    ],
)
def test_a_sealed_one_of_other_content_is_passed_over(tmp_path: Path, content: object, told: str) -> None:
    save_checkpoint(tmp_path, {"step": 1, "task": {}, "progress": {}})
    os.replace(tmp_path / LAST, tmp_path / PREVIOUS)
    with (tmp_path / LAST).open("w+b") as opened:
        torch.save(content, opened)
        seal(opened)
    file, notice = newest_checkpoint(tmp_path, parts=("task", "progress"))
    assert step_of(file) == 1
    assert notice is not None
    assert notice.startswith(f"{tmp_path / LAST} is broken ({told}); going on from ")
    (tmp_path / PREVIOUS).unlink()
    os.replace(tmp_path / BROKEN, tmp_path / LAST)
    with pytest.raises(UserError, match=r"is broken .*; start again with --overwrite"):
        newest_checkpoint(tmp_path, parts=("task", "progress"))


def test_two_broken_ones_are_an_error(tmp_path: Path) -> None:
    (tmp_path / LAST).write_bytes(b"junk")
    (tmp_path / PREVIOUS).write_bytes(b"junk")
    with pytest.raises(UserError, match=r"last\.pt is broken .* and .*previous\.pt is broken .*--overwrite"):
        newest_checkpoint(tmp_path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "broken into",))

    torch.save({"format": FORMAT, "attack": Attack()}, tmp_path / LAST, pickle_module=pickle)
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / LAST)
    assert not (tmp_path / "broken into").exists()


def test_other_files_are_named(tmp_path: Path) -> None:
    torch.save({"model": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt is not a checkpoint of this version"):
        load_checkpoint(tmp_path / "other.pt")
    with pytest.raises(UserError, match="all machines of the run can read it"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("where", ["save", "fsync"])
def test_a_full_disk_leaves_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    save_checkpoint(tmp_path, state(1))

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("torch.save" if where == "save" else "os.fsync", full)
        with pytest.raises(UserError, match=r"last\.pt cannot be written: the disk is full .*previous.* is intact"):
            save_checkpoint(tmp_path, state(2))
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
    assert step_of(tmp_path / LAST) == 1


def test_other_errors_are_not_hidden(tmp_path: Path) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(tmp_path, {"function": lambda: None})


LIMITED = """
import resource, signal, sys
from pathlib import Path
from mimicdet.engine.checkpoint import save_checkpoint
from mimicdet.errors import UserError
import torch
folder = Path(sys.argv[1])
save_checkpoint(folder, {"step": 1, "w": torch.zeros(10)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(folder, {"step": 2, "w": torch.zeros(1_000_000)})
except UserError as error:
    print(error)
"""


def test_a_file_that_the_system_does_not_let_grow(tmp_path: Path) -> None:
    """The real thing: torch's zip writer runs into the limit in the middle of a tensor."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "last.pt cannot be written: the disk is full (the previous checkpoint is intact)" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
    assert step_of(tmp_path / LAST) == 1


# ---------------------------------------------------------------------------- does it belong to this run


def changed(settings: Settings, name: str, value: Any) -> Settings:
    section, _, key = name.rpartition(".")
    if not section:
        return settings.model_copy(update={key: value})
    part = getattr(settings, section).model_copy(update={key: value})
    return settings.model_copy(update={section: part})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return training_data_identity(toy_data(tmp_path_factory.mktemp("data")))


def require(
    saved: Settings, now: Settings, data: dict[str, Any], *, data_now: dict[str, Any] | None = None, processes: int = 2
) -> None:
    """With a checkpoint of a run of two processes."""
    old = {"settings": saved.model_dump(mode="json"), "data": data, "processes": 2}
    file = Path("run/checkpoints/last.pt")
    require_same_run(old, settings=now, data=data_now or data, processes=processes, file=file)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("optim.lr", 0.5, "optim.lr was 0.01 and is 0.5"),
        ("task", "detect", 'task was "mimic" and is "detect"'),
        ("model.levels", (3, 4, 5, 6), r"model.levels was \[3, 4, 5, 6, 7\] and is \[3, 4, 5, 6\]"),
        ("train.seed", 7, "train.seed was 0 and is 7"),
        ("inference.shorter_side", 800, "inference.shorter_side was 64 and is 800"),
        ("train.epochs", 3, "train.epochs was 2 and is 3"),  # under a cosine schedule
    ],
)
def test_what_would_alter_the_run_is_refused(name: str, value: Any, told: str, data: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"of another run: {told}"):
        require(toy_settings(), changed(toy_settings(), name, value), data)


def test_what_alters_nothing_may_change(data: dict[str, Any]) -> None:
    assert not MAY_CHANGE - FIELDS.keys()
    now = toy_settings(eval_every=2, checkpoint_every=7, log_every=9, pictures=1, trackers=("wandb",), max_bad_steps=0)
    now = changed(changed(now, "data.workers", 8), "inference.batch_size", 4)
    require(toy_settings(), now, data)
    require(toy_settings(optim={"schedule": "step"}), toy_settings(optim={"schedule": "step"}, epochs=5), data)


def test_everything_that_differs_is_named(data: dict[str, Any]) -> None:
    now = changed(changed(toy_settings(), "optim.lr", 1.0), "train.batch_size", 4)
    with pytest.raises(UserError, match=r"optim.lr was .*; train.batch_size was 1 and is 4; it ran on 2 .* with 1"):
        require(toy_settings(), now, data, processes=1)


@pytest.mark.parametrize("settings", [{"optim": {"speed": 1}}, {"model": 3}, {"model": {"family": "new"}}])
def test_settings_of_another_version(data: dict[str, Any], settings: dict[str, Any]) -> None:
    old = {"settings": settings, "data": data, "processes": 1}
    with pytest.raises(UserError, match="settings of another version"):
        require_same_run(old, settings=MimicDetSettings(), data=data, processes=1, file=Path("x"))


@pytest.mark.parametrize("lacking", ["settings", "data"])
def test_what_is_no_checkpoint_of_a_run(data: dict[str, Any], lacking: str) -> None:
    old = {"settings": {}, "data": data, "processes": 1} | {lacking: None}
    with pytest.raises(UserError, match=f"is no checkpoint of a run, which has its {lacking}"):
        require_same_run(old, settings=MimicDetSettings(), data=data, processes=1, file=Path("x"))


def test_the_training_set_must_be_the_same(tmp_path: Path, data: dict[str, Any]) -> None:
    settings, dataset = toy_settings(), toy_data(tmp_path)
    require(settings, settings, data, data_now=training_data_identity(dataset))

    fewer = replace(dataset, images=dataset.images[1:])
    renamed = replace(dataset, categories=(dataset.categories[0], replace(dataset.categories[1], name="blue")))
    first = dataset.images[0]
    moved = replace(dataset, images=(replace(first, boxes=first.boxes + 1), *dataset.images[1:]))
    reordered = replace(dataset, images=dataset.images[::-1])
    relabelled = replace(dataset, images=(replace(first, labels=1 - first.labels), *dataset.images[1:]))
    for other, told in [
        (fewer, "images were 10 and are 9"),
        (renamed, "classes were .*green.* and are .*blue"),
        (moved, "objects have changed"),
        (reordered, "objects have changed"),
        (relabelled, "objects have changed"),
    ]:
        with pytest.raises(UserError, match=told):
            require(settings, settings, data, data_now=training_data_identity(other))


def test_the_fingerprint_is_plain(data: dict[str, Any]) -> None:
    assert data["images"] == 10
    assert data["classes"] == ["red", "green"]
    assert all(not isinstance(value, np.generic) for value in data.values())


@pytest.mark.parametrize("content", [{}, [], {"format": "other"}, torch.zeros(3)])
def test_a_last_file_of_another_kind_falls_to_the_one_before(tmp_path: Path, content: object) -> None:
    save_checkpoint(tmp_path, {})
    (tmp_path / "last.pt").rename(tmp_path / "previous.pt")
    torch.save(content, tmp_path / "last.pt")
    file, notice = newest_checkpoint(tmp_path)
    assert file == tmp_path / "previous.pt"
    assert "the checksum at its end is missing" in (notice or "")
