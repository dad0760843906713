"""The file that keeps what runs gave, and what is said of one that is damaged or of other settings than the study's."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimicdet.errors import UserError
from mimicdet.lab.study.evidence import EVIDENCE, Outcome, Speed, read_evidence, write_evidence
from mimicdet.lab.study.judged import judge
from mimicdet.lab.study.outcome import Data, check_agreement, finished, finished_jobs, settings_of
from tests.lab.study.test_judged import draw
from tests.lab.study.test_reuse import finish, job, outcome_of


@pytest.fixture
def outcomes(tmp_path: Path) -> list[Outcome]:
    """Two runs of which one was timed."""
    truth, found = draw(3)
    one, other = job(tmp_path, "one"), job(tmp_path, "other", seed=4, lr=0.02)
    speed = Speed(milliseconds=[1.0, 1 / 3], runs=["one"], device="1 CPU thread")
    metrics = {"AP": 1 / 3, "AP50": 0.5, "AP75": 0.0, "per_class_AP": {"fish": 0.1}, "images": 6}
    return [
        outcome_of(one, metrics=metrics, judged=judge(truth, found)).model_copy(update={"speed": speed}),
        outcome_of(other, judged=judge(truth, found[::2])).model_copy(update={"diagnostics": {"recall_50": 0.7}}),
    ]


def test_what_is_written_is_read(outcomes: list[Outcome], tmp_path: Path) -> None:
    write_evidence(outcomes, tmp_path, {"differences.csv": "run,against"})
    same = read_evidence(tmp_path)
    assert [one.model_dump() for one in same] == [one.model_dump() for one in outcomes]
    assert [one.place for one in same] == [tmp_path] * 2
    times = np.array([2, 0, 1, 1, 0, 2])
    assert [one.judged.ap(times) for one in same] == [one.judged.ap(times) for one in outcomes]
    with np.load(tmp_path / EVIDENCE, allow_pickle=False) as stored:
        assert stored["differences.csv"] == b"run,against"


def test_the_same_content_has_the_same_bytes(outcomes: list[Outcome], tmp_path: Path) -> None:
    """Whenever and wherever it is written, and again of what is read."""
    (tmp_path / "later").mkdir()
    write_evidence(outcomes, tmp_path)
    write_evidence(read_evidence(tmp_path), tmp_path / "later")
    content = (tmp_path / EVIDENCE).read_bytes()
    assert (tmp_path / "later" / EVIDENCE).read_bytes() == content
    with zipfile.ZipFile(tmp_path / EVIDENCE) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    write_evidence(outcomes[:1], tmp_path)
    assert (tmp_path / EVIDENCE).read_bytes() != content


def rewrite(file: Path, change: Callable[[Any], Any]) -> None:
    """Writes the archive with other content of ``runs.json``, given as plain values."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["runs.json"] = json.dumps(change(json.loads(members["runs.json"]))).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def without(key: str) -> Callable[[Any], Any]:
    return lambda rows: [{name: value for name, value in row.items() if name != key} for row in rows]


NEEDED = ("run", "seed", "settings", "data", "data_name", "metrics", "seconds", "teacher_ap", "machine", "diagnostics")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        *((without(key), f"it has no '{key}'") for key in NEEDED),
        (lambda rows: [row | {"settings": 3} for row in rows], "its 'settings' is 3"),
        (lambda rows: [row | {"seconds": None} for row in rows], "its 'seconds' is empty"),
        (lambda rows: [row | {"metrics": {}} for row in rows], "it has no 'metrics.AP'"),
        (
            lambda rows: [row | {"metrics": {"AP": 0.3, "AP50": None, "AP75": 0.2}} for row in rows],
            "its 'metrics.AP50' is empty",
        ),
        (lambda rows: [row | {"diagnostics": [0.7]} for row in rows], r"its 'diagnostics' is \[0.7\]"),
        (lambda rows: [row | {"diagnostics": {"recall_50": None}} for row in rows], "'diagnostics.recall_50' is empty"),
        (lambda rows: [row | {"speed": {"runs": ["one"]}} for row in rows], "it has no 'speed.milliseconds'"),
        (lambda rows: [3, 4], "not a mapping"),
        (lambda rows: 3, "not iterable|not support"),
        (lambda rows: rows[:1], "zip()"),
    ],
)
def test_damaged_content_is_no_traceback(
    outcomes: list[Outcome], tmp_path: Path, change: Callable[[Any], Any], why: str
) -> None:
    write_evidence(outcomes, tmp_path)
    rewrite(tmp_path / EVIDENCE, lambda rows: rows)
    assert len(read_evidence(tmp_path)) == 2
    rewrite(tmp_path / EVIDENCE, change)
    with pytest.raises(UserError, match=rf"evidence.npz is damaged \(.*{why}.*\); remove it"):
        read_evidence(tmp_path)


def test_a_damaged_file_is_named(outcomes: list[Outcome], tmp_path: Path) -> None:
    file = tmp_path / EVIDENCE
    with pytest.raises(UserError, match=r"evidence\.npz is damaged"):
        read_evidence(tmp_path)
    write_evidence(outcomes, tmp_path)
    whole = file.read_bytes()
    other = whole[: len(whole) // 3] + bytes(20) + whole[len(whole) // 3 + 20 :]
    for content in (b"", b"text", whole[: len(whole) // 2], other):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"evidence\.npz is damaged"):
            read_evidence(tmp_path)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("runs.json", "[" * 100_000)
    with pytest.raises(UserError, match=r"evidence\.npz is damaged \(.*recursion"):
        read_evidence(tmp_path)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("runs.json", "[]")
    with pytest.raises(UserError, match=r"evidence\.npz is damaged \(.*objects"):
        read_evidence(tmp_path)


def test_settings_that_differ_are_named(tmp_path: Path, data: Data) -> None:
    finish(job(tmp_path / "a", "with"), data)
    same = job(tmp_path / "a", "with")
    assert finished(same, data) is not None
    other = job(tmp_path / "a", "with", lr=0.02, teachers=("big",))
    expected = (
        r"with/seed0 holds 'with, seed 0' with other settings than the study has now \(task was .detect. and is "
        r".distill.; distill.teachers was \[\] and is \[.big.\]; optim.lr was 0.01 and is 0.02\); remove the folder"
    )
    with pytest.raises(UserError, match=expected):
        finished(other, data)
    fewer = Data(data.folder, "train", "val", data.val_set, data.val_set)
    with pytest.raises(UserError, match="with other data than the study has now; remove the folder"):
        finished(same, fewer)


def test_settings_that_are_no_more_are_named(tmp_path: Path, data: Data) -> None:
    mine = job(tmp_path / "a", "with")
    finish(mine, data, settings=settings_of(mine) | {"model.head_finish": 3})
    with pytest.raises(UserError, match=r"other settings .* \(unknown setting 'model.head_finish' in evidence.npz; "):
        finished(mine, data)


def test_a_study_is_read_of_its_evidence_where_no_run_has_a_folder(tmp_path: Path, data: Data) -> None:
    one, other = job(tmp_path, "one"), job(tmp_path, "other")
    write_evidence([outcome_of(one, data), outcome_of(other, data)], tmp_path)
    assert [found.run for found in finished_jobs([other, one], tmp_path, data)] == ["other", "one"]
    changed = job(tmp_path, "one", lr=0.02)
    with pytest.raises(UserError, match=r"holds 'one, seed 0' with other settings .*optim.lr was 0.01 and is 0.02"):
        finished_jobs([changed], tmp_path, data)
    finish(one, data)
    (found,) = finished_jobs([one, other], tmp_path, data)
    assert found.place == one.folder, "what the study was before counts no more"


def test_results_that_number_the_images_differently_are_not_paired(tmp_path: Path) -> None:
    """As two copies of the package could, of which one is older: the intervals would be those of unpaired images."""
    truth, found = draw(3)
    backwards = {**truth, "images": [i | {"file_name": f"{99 - k}.jpg"} for k, i in enumerate(truth["images"])]}
    one = outcome_of(job(tmp_path / "a", "one"), judged=judge(truth, found))
    other = outcome_of(job(tmp_path / "a", "other"), judged=judge(backwards, found))
    check_agreement([one, one], "train", "val")
    with pytest.raises(
        UserError, match=r"a/one/seed0/evidence.npz and .*a/other/seed0/evidence.npz number the images d"
    ):
        check_agreement([one, one, other], "train", "val")
