"""Plans the trainings that a study asks for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicdet.config import Settings
from mimicdet.errors import UserError
from mimicdet.lab.study.study_file import PlannedRun, StudyFile, slug
from mimicdet.settings_file import Layer, check_key, preset_file, read_layer, resolve

TEACHER_RUN = "run:"


@dataclass(frozen=True)
class Job:
    """A job is one training: a run with one seed."""

    run: str
    seed: int
    folder: Path
    settings: Settings
    needs: tuple[str, ...]  # names of the runs that teach it

    @property
    def name(self) -> str:
        return f"{self.run}, seed {self.seed}"


def plan(study: StudyFile, file: Path, out: Path) -> list[Job]:
    """Returns every training of a study, teachers before their students.

    Their folders lie in ``out``. UserError, which names the study's ``file``, where settings do not exist or do not go
    together, or teachers are no runs of the study.
    """
    jobs: list[Job] = []
    by_name = {run.name: run for run in study.runs}
    for run in study.runs:
        where, preset = f"in {file}, run '{run.name}'", run.preset or study.preset
        layers = [read_layer(preset_file(preset, where))] if preset else []
        values = {**study.set, **run.set}
        for key in values:
            check_key(key, where)
        teachers = values.get("distill.teachers", [])
        if not isinstance(teachers, list):
            raise UserError(f'{where}: distill.teachers must be a list, such as ["run:NAME"]')
        needs = tuple(str(t).removeprefix(TEACHER_RUN) for t in teachers if str(t).startswith(TEACHER_RUN))
        if unknown := [name for name in needs if name not in by_name]:
            raise UserError(f"{where}: the teacher '{unknown[0]}' is none of the runs: {', '.join(by_name)}")
        for seed in run.seeds or study.seeds:
            own: dict[str, Any] = {"train.seed": seed}
            if teachers:
                own["distill.teachers"] = [_teacher(str(one), seed, by_name, study, out) for one in teachers]
            settings = resolve([*layers, Layer(where, values | own)])
            jobs.append(Job(run.name, seed, folder_of(out, run.name, seed), settings, needs))
    return _ordered(jobs, file)


def folder_of(out: Path, run: str, seed: int) -> Path:
    """Returns where a run's training with a seed lies."""
    return out / slug(run) / f"seed{seed}"


def _teacher(teacher: str, seed: int, runs: dict[str, PlannedRun], study: StudyFile, out: Path) -> str:
    """Returns the folder of a teacher's model: of the same seed, or of its first one."""
    if not teacher.startswith(TEACHER_RUN):
        return teacher
    name = teacher.removeprefix(TEACHER_RUN)
    seeds = runs[name].seeds or study.seeds
    return str(folder_of(out, name, seed if seed in seeds else seeds[0]) / "model-last")


def _ordered(jobs: list[Job], file: Path) -> list[Job]:
    done: set[str] = set()
    ordered: list[Job] = []
    while waiting := [job for job in jobs if job not in ordered]:
        ready = [job for job in waiting if set(job.needs) <= done]
        if not ready:
            raise UserError(f"{file}: '{waiting[0].run}' and its teachers teach each other in a circle")
        ordered += ready
        done |= {job.run for job in ready}
    return ordered
