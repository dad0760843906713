"""metrics.jsonl: what is read is what was written, whatever happened in between."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path

import pytest

from mimicdet.engine.run_folder import MetricsFile, read_metrics
from mimicdet.errors import UserError


def test_records_come_back_with_null_for_what_json_lacks(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"kind": "train", "loss": float("nan"), "norm": float("inf"), "per_class": {"a": float("nan"), "b": 1}})
    file.append({"kind": "eval", "AP": 0.1 + 0.2})
    assert read_metrics(file.path) == [
        {"kind": "train", "loss": None, "norm": None, "per_class": {"a": None, "b": 1}},
        {"kind": "eval", "AP": 0.1 + 0.2},
    ]


@pytest.mark.parametrize("cut", [1, 5, 14])
def test_a_half_written_last_line_is_passed_over(tmp_path: Path, cut: int) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(3):
        file.append({"step": step})
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[: -min(cut, len(b'{"step": 2}\n'))])
    assert read_metrics(file.path) == [{"step": 0}, {"step": 1}]
    file.keep_first(3)
    file.append({"step": 7})
    assert read_metrics(file.path) == [{"step": 0}, {"step": 1}, {"step": 7}]
    assert [json.loads(line) for line in file.path.read_text().splitlines()] == read_metrics(file.path)


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 5_000])
def test_a_line_that_nobody_wrote_is_passed_over(tmp_path: Path, line: str) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.path.write_text(f'{{"step": 0}}\n{line}\n')
    assert read_metrics(file.path) == [{"step": 0}]


def test_what_came_after_the_checkpoint_is_cut_off(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.keep_first(0)
    assert read_metrics(file.path) == []
    for step in range(4):
        file.append({"step": step})
    file.keep_first(2)
    assert [record["step"] for record in read_metrics(file.path)] == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_full_disk() -> None:
    with pytest.raises(UserError, match=r"/dev/full cannot be written: the disk is full .*--resume"):
        MetricsFile(Path("/dev/full")).append({"step": 1})


def test_what_the_disk_cannot_take_leaves_no_half_line(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, before[0][1]))  # in the middle of what comes
    try:
        with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written: the disk is full .*--resume"):
            file.append({"step": 2, "loss": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
        signal.signal(signal.SIGXFSZ, before[1])
    assert file.path.read_bytes() == b'{"step": 1}\n'
