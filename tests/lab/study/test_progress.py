"""What is finished of a study, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimicdet.engine.run_folder import RunFolder
from mimicdet.errors import UserError
from mimicdet.lab.study.evidence import write_evidence
from mimicdet.lab.study.outcome import Data, progress_of, progress_table
from mimicdet.lab.study.plan import Job
from tests.lab.study.test_reuse import finish, job, outcome_of


def finished(job: Job, data: Data, seconds: float) -> Job:
    finish(job, data)
    write_evidence([outcome_of(job, data).model_copy(update={"seconds": seconds})], job.folder)
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
        states = [one.state for one in progress_of(jobs, tmp_path / "here", known, reuse=True)]
        beside = tmp_path / "beside/named otherwise/seed0"
        epochs = jobs[0].settings.train.epochs
        assert states == ["finished", f"finished in {beside}", f"begun, 1.2 of {epochs} epochs", "to be trained"]
    assert sorted(tmp_path.rglob("*")) == before
    assert progress_of(jobs, tmp_path / "here", data, reuse=False)[1].state == "to be trained"


def test_what_is_left_takes_as_long_as_what_is_finished(jobs: list[Job], data: Data, tmp_path: Path) -> None:
    """A run's other seeds as long as it, other runs as the median: (15 + 10) minutes."""

    def told(jobs: list[Job], parallel: int) -> str:
        return progress_table(progress_of(jobs, tmp_path / "here", data, reuse=True), parallel=parallel)

    assert told(jobs, 1).splitlines()[-1] == (
        "2 of 4 trainings are finished; the others will take some 0.4 hours, 1 at a time, if as long as those"
    )
    assert "some 0.2 hours, 2 at a time" in told(jobs, 2)
    assert told(jobs[3:], 1).endswith("0 of 1 trainings are finished")
    assert told(jobs[:1], 1).endswith("1 of 1 trainings are finished")


def test_what_is_finished_elsewhere_is_known_by_the_studys_evidence(tmp_path: Path, data: Data) -> None:
    """Where no run of it has a folder."""
    jobs = [job(tmp_path / "here", "done"), job(tmp_path / "here", "done", seed=1)]
    (tmp_path / "here").mkdir()
    write_evidence([outcome_of(jobs[0], data)], tmp_path / "here")
    found = progress_of(jobs, tmp_path / "here", None, reuse=True)
    assert [(one.state, one.seconds) for one in found] == [("finished", 7), ("to be trained", None)]


def test_other_settings_are_refused(tmp_path: Path, data: Data) -> None:
    finish(job(tmp_path, "done"), data)
    with pytest.raises(UserError, match="other settings than the study has now"):
        progress_of([job(tmp_path, "done", lr=0.02)], tmp_path, data, reuse=True)
