"""What one study has finished and another asks for too. Two whole studies: see tests/commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mimicdet.config import settings_from
from mimicdet.errors import UserError
from mimicdet.lab.study.outcome import RESULT, Data, conditions, is_finished
from mimicdet.lab.study.plan import Job
from mimicdet.lab.study.reuse import take_over


def job(folder: Path, run: str, *, seed: int = 0, lr: float = 0.01, teachers: tuple[str, ...] = ()) -> Job:
    task = "distill" if teachers else "detect"
    settings = settings_from(
        {"task": task, "train": {"seed": seed}, "optim": {"lr": lr}, "distill": {"teachers": teachers}}
    )
    return Job(run, seed, folder / run / f"seed{seed}", settings, ())


def finish(job: Job, data: Data) -> Job:
    (job.folder / "checkpoints").mkdir(parents=True)
    (job.folder / "model-last/checkpoints").mkdir(parents=True)  # of that name, but none of a run
    (job.folder / "checkpoints/last.pt").write_bytes(b"large")
    (job.folder / "detections.json").write_text("[]")
    outcome = {"metrics": {"AP": 0.3, "AP50": 0.5, "AP75": 0.2}, "seconds": 7, "teacher_ap": None, "machine": "this"}
    (job.folder / RESULT).write_text(json.dumps({**conditions(job, data), **outcome}))
    return job


def test_it_is_copied_without_its_checkpoints(tmp_path: Path, data: Data) -> None:
    source = finish(job(tmp_path / "a", "with"), data)
    mine = job(tmp_path / "b", "full-method")
    assert take_over(mine, data) == source.folder
    assert is_finished(mine, data)
    assert sorted(p.name for p in mine.folder.iterdir()) == ["detections.json", "model-last", RESULT]
    assert (mine.folder / "model-last/checkpoints").is_dir()
    assert [p.name for p in mine.folder.parent.iterdir()] == ["seed0"]
    assert (source.folder / "checkpoints/last.pt").is_file()


def test_other_conditions_are_not_taken(tmp_path: Path, data: Data) -> None:
    finish(job(tmp_path / "a", "with"), data)
    finish(job(tmp_path / "a", "taught", teachers=("teacher",)), data)
    finish(job(tmp_path / "b", "of this study"), data)
    for other in (
        job(tmp_path / "b", "with", lr=0.02), job(tmp_path / "b", "with", seed=1),
        job(tmp_path / "b", "taught", teachers=("teacher",)), job(tmp_path / "elsewhere/b", "with"),
    ):  # fmt: skip
        assert take_over(other, data) is None
    assert take_over(job(tmp_path / "a", "the same again"), data) == tmp_path / "b/of this study/seed0"
    fewer = Data(data.folder, "train", "val", data.val_set, data.val_set)
    assert take_over(job(tmp_path / "b", "with"), fewer) is None, "trained on other images"


def test_settings_that_are_new_since_then_had_their_defaults(tmp_path: Path, data: Data) -> None:
    """An older version's results stay good; one with a setting that is no more is of other settings."""
    source = finish(job(tmp_path / "a", "with"), data)
    file = source.folder / RESULT
    result = json.loads(file.read_text())
    text = result["settings"]
    assert "head_init: he" in text
    file.write_text(json.dumps(result | {"settings": text.replace("head_init: he", "head_init: gaussian")}))
    assert take_over(job(tmp_path / "b", "with"), data) is None
    file.write_text(json.dumps(result | {"settings": text.replace("  head_init: he\n", "  head_finish: 3\n")}))
    assert take_over(job(tmp_path / "b", "with"), data) is None
    file.write_text(json.dumps(result | {"settings": text.replace("  head_init: he\n", "")}))
    assert is_finished(source, data)
    assert take_over(job(tmp_path / "b", "with"), data) == source.folder


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
