"""What one study has finished and another asks for too. Two whole studies: see tests/commands."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from mimicdet.config import settings_from
from mimicdet.errors import UserError
from mimicdet.lab.study.evidence import EVIDENCE, Outcome, Speed, write_evidence
from mimicdet.lab.study.judged import judge
from mimicdet.lab.study.outcome import Data, finished, settings_of, take_over
from mimicdet.lab.study.plan import Job
from tests.lab.study.test_judged import draw


def job(folder: Path, run: str, *, seed: int = 0, lr: float = 0.01, teachers: tuple[str, ...] = ()) -> Job:
    task = "distill" if teachers else "detect"
    settings = settings_from(
        {"task": task, "train": {"seed": seed}, "optim": {"lr": lr}, "distill": {"teachers": teachers}}
    )
    return Job(run, seed, folder / run / f"seed{seed}", settings, ())


def outcome_of(job: Job, data: Data | None = None, **changes: Any) -> Outcome:
    """What a job gave, of detections that are drawn."""
    values: dict[str, Any] = {
        "settings": settings_of(job),
        "data": data.fingerprint if data else "train 1 -> val 2",
        "metrics": {"AP": 0.3, "AP50": 0.5, "AP75": 0.2},
        "judged": judge(*draw(3)),
    }
    return Outcome(
        **(values | changes),
        run=job.run,
        seed=job.seed,
        data_name="toy",
        seconds=7,
        teacher_ap=None,
        machine="this",
        diagnostics={},
        place=job.folder,
    )


def finish(job: Job, data: Data, **changes: Any) -> Job:
    (job.folder / "checkpoints").mkdir(parents=True)
    (job.folder / "model-last/checkpoints").mkdir(parents=True)  # of that name, but none of a run
    (job.folder / "checkpoints/last.pt").write_bytes(b"large")
    (job.folder / "detections.json").write_text("[]")
    write_evidence([outcome_of(job, data, **changes)], job.folder)
    return job


def place(outcome: Outcome | None) -> Path | None:
    return outcome.place if outcome else None


def test_it_is_copied_without_its_checkpoints(tmp_path: Path, data: Data) -> None:
    source = finish(job(tmp_path / "a", "with"), data)
    speed = Speed(milliseconds=[1.0], runs=["with"], device="this")
    write_evidence([outcome_of(source, data).model_copy(update={"speed": speed})], source.folder)
    mine = job(tmp_path / "b", "full-method")
    assert place(take_over(mine, data)) == source.folder
    taken = finished(mine, data)
    assert taken is not None
    assert (taken.run, taken.seconds, taken.speed) == ("full-method", 7, None)
    assert sorted(p.name for p in mine.folder.iterdir()) == ["detections.json", EVIDENCE, "model-last"]
    assert (mine.folder / "model-last/checkpoints").is_dir()
    assert [p.name for p in mine.folder.parent.iterdir()] == ["seed0"]
    assert (source.folder / "checkpoints/last.pt").is_file()


def test_other_conditions_are_not_taken(tmp_path: Path, data: Data) -> None:
    finish(job(tmp_path / "a", "with"), data)
    finish(job(tmp_path / "a", "taught", teachers=("teacher",)), data)
    finish(job(tmp_path / "b", "of this study"), data)
    for other in (
        job(tmp_path / "b", "with", lr=0.02),
        job(tmp_path / "b", "with", seed=1),
        job(tmp_path / "b", "taught", teachers=("teacher",)),
        job(tmp_path / "elsewhere/b", "with"),
    ):
        assert take_over(other, data) is None
    assert place(take_over(job(tmp_path / "a", "the same again"), data)) == tmp_path / "b/of this study/seed0"
    fewer = Data(data.folder, "train", "val", data.val_set, data.val_set)
    assert take_over(job(tmp_path / "b", "with"), fewer) is None, "trained on other images"


def test_settings_that_are_new_since_then_had_their_defaults(tmp_path: Path, data: Data) -> None:
    """An older version's results stay good; one with a setting that is no more is of other settings."""
    source = job(tmp_path / "a", "with")
    settings = settings_of(source)
    assert settings["model.head_init"] == "he"
    without = {name: value for name, value in settings.items() if name != "model.head_init"}
    for other in (without | {"model.head_init": "gaussian"}, without | {"model.head_finish": 3}):
        finish(source, data, settings=other)
        assert take_over(job(tmp_path / "b", "with"), data) is None
        shutil.rmtree(source.folder)
    finish(source, data, settings=without)
    assert finished(source, data) is not None
    assert place(take_over(job(tmp_path / "b", "with"), data)) == source.folder


def test_what_has_begun_goes_on(tmp_path: Path, data: Data) -> None:
    finish(job(tmp_path / "a", "with"), data)
    mine = job(tmp_path / "b", "with")
    mine.folder.mkdir(parents=True)
    assert take_over(mine, data) is None


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(job(tmp_path / "a", "with"), data)
    mine = job(tmp_path / "b", "with")

    def full(source: Path, target: Path, **_: object) -> None:
        target.mkdir(parents=True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(UserError, match="No space left"):
        take_over(mine, data)
    assert not any(mine.folder.parent.iterdir())
