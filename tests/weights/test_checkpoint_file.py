"""A damaged checkpoint is found out, whichever bit of it is another, and the one before takes its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mimicdet.engine.checkpoint import save_checkpoint
from mimicdet.errors import UserError
from mimicdet.weights.checkpoint_file import BROKEN, LAST, PREVIOUS, fault_in, load_checkpoint, newest_checkpoint

SEAL = len(b"\nmimicdet sha256 ") + 64


def state(step: int) -> dict[str, Any]:
    weights = {"w": torch.full((40,), float(step)), "counts": torch.arange(5)}
    return {"step": step, "task": weights, "progress": {"epoch": step, "best": None}, "names": ["a", "b"]}


def is_whole(loaded: dict[str, Any], step: int) -> bool:
    expected = state(step)
    tensors = loaded["task"].keys() == expected["task"].keys() and all(
        torch.equal(loaded["task"][key], value) for key, value in expected["task"].items()
    )
    return tensors and all(loaded[key] == expected[key] for key in ("step", "progress", "names"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A folder with two checkpoints, and the bytes of the last one."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_checkpoint(folder, state(1))
    save_checkpoint(folder, state(2))
    return folder, (folder / LAST).read_bytes()


DAMAGE = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1, exclude_max=True), st.integers(0, 7)),
    st.tuples(st.just("cut"), st.floats(0, 1, exclude_max=True), st.just(0)),
    st.tuples(st.just("zero"), st.floats(0, 1, exclude_max=True), st.integers(1, 600)),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=DAMAGE)
def test_any_damage_to_the_last_one_falls_to_the_one_before(
    run: tuple[Path, bytes], damage: tuple[str, float, int]
) -> None:
    folder, content = run
    kind, place, number = damage
    at = int(place * len(content))
    damaged = {
        "flip": content[:at] + bytes([content[at] ^ (1 << number % 8)]) + content[at + 1 :],
        "cut": content[:at],
        "zero": content[:at] + bytes(len(content[at : at + number])) + content[at + number :],
    }[kind]
    (folder / LAST).write_bytes(damaged)
    (folder / BROKEN).unlink(missing_ok=True)
    file, notice = newest_checkpoint(folder)
    if damaged == content:  # zeros where zeros were
        assert file == folder / LAST
        assert is_whole(load_checkpoint(file), 2)
    else:
        assert file == folder / PREVIOUS
        assert notice is not None
        assert notice.startswith(f"{folder / LAST} is broken (")
        assert notice.endswith(f"going on from {folder / PREVIOUS}, the one before")
        assert is_whole(load_checkpoint(file), 1)


def test_every_bit_of_a_sealed_one_counts(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1))
    content = (tmp_path / LAST).read_bytes()
    assert fault_in(tmp_path / LAST) is None
    for at in range(0, len(content) - SEAL, 37):
        (tmp_path / LAST).write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        assert fault_in(tmp_path / LAST) == "it has changed since it was written"


def test_a_broken_one_never_replaces_the_one_that_is_whole(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, state(step))
    (tmp_path / LAST).write_bytes(b"junk")
    assert newest_checkpoint(tmp_path)[0] == tmp_path / PREVIOUS
    save_checkpoint(tmp_path, state(3))
    assert (tmp_path / BROKEN).read_bytes() == b"junk"
    assert is_whole(load_checkpoint(tmp_path / PREVIOUS), 1)
    assert is_whole(load_checkpoint(tmp_path / LAST), 3)
    assert newest_checkpoint(tmp_path) == (tmp_path / LAST, None)


def test_nothing_is_renamed_where_all_are_broken(tmp_path: Path) -> None:
    for name in (LAST, PREVIOUS):
        (tmp_path / name).write_bytes(b"junk")
    with pytest.raises(UserError, match=r"last\.pt is broken .* and .*previous\.pt is broken"):
        newest_checkpoint(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]


def test_torch_reads_a_sealed_one(tmp_path: Path) -> None:
    """By itself, for whoever looks into a checkpoint without this package."""
    save_checkpoint(tmp_path, state(1))
    assert is_whole(torch.load(tmp_path / LAST, weights_only=True), 1)
