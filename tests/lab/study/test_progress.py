"""What is finished of a study, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mimicdet.engine.run_folder import RunFolder
from mimicdet.errors import UserError
from mimicdet.lab.study.outcome import RESULT, Data
from mimicdet.lab.study.plan import Job
from mimicdet.lab.study.progress import progress_of, progress_table
from tests.lab.study.test_reuse import finish, job


def finished(job: Job, data: Data, seconds: float) -> Job:
    finish(job, data)
    file = job.folder / RESULT
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seconds": seconds}))
    return job


@pytest.fixture
def jobs(tmp_path: Path, data: Data) -> list[Job]:
    """Finished here, finished in the study beside, begun, and not begun."""
    here, beside = tmp_path / "here", tmp_path / "beside"
    begun = job(here, "begun")
    RunFolder(begun.folder).checkpoints.mkdir(parents=True)
    RunFolder(begun.folder).settings_file.write_text("task: detect\n")
    RunFolder(begun.folder).metrics_file.write_text(
        '{"kind": "train", "step": 10, "epoch": 1.25}\n{"kind": "eval", "step": 10, "epoch": 1.0}\n'
    )
    finished(job(beside, "named otherwise", lr=0.02), data, 1200)
    return [finished(job(here, "done"), data, 600), job(here, "elsewhere", lr=0.02), begun, job(here, "done", seed=1)]


def test_each_state_is_told_and_nothing_begun(jobs: list[Job], data: Data, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    for known in (data, None):
        states = [one.state for one in progress_of(jobs, known, reuse=True)]
        beside = tmp_path / "beside/named otherwise/seed0"
        epochs = jobs[0].settings.train.epochs
        assert states == ["finished", f"finished in {beside}", f"begun, 1.2 of {epochs} epochs", "to be trained"]
    assert sorted(tmp_path.rglob("*")) == before
    assert progress_of(jobs, data, reuse=False)[1].state == "to be trained"


def test_what_is_left_takes_as_long_as_what_is_finished(jobs: list[Job], data: Data) -> None:
    """A run's other seeds as long as it, other runs as the median: (15 + 10) minutes."""
    text = progress_table(progress_of(jobs, data, reuse=True), parallel=1)
    assert text.splitlines()[-1] == (
        "2 of 4 trainings are finished; the others will take some 0.4 hours, 1 at a time, if as long as those"
    )
    assert "some 0.2 hours, 2 at a time" in progress_table(progress_of(jobs, data, reuse=True), parallel=2)
    assert progress_table(progress_of(jobs[3:], data, reuse=True), parallel=1).endswith("0 of 1 trainings are finished")
    assert progress_table(progress_of(jobs[:1], data, reuse=True), parallel=1).endswith("1 of 1 trainings are finished")


def test_other_settings_are_refused(tmp_path: Path, data: Data) -> None:
    finish(job(tmp_path, "done"), data)
    with pytest.raises(UserError, match="other settings than the study has now"):
        progress_of([job(tmp_path, "done", lr=0.02)], data, reuse=True)
