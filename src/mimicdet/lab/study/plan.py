"""A study's file, and the jobs that it asks for.

::

    title: What mimicking gives
    data: ../aquarium           # --data on the command line wins
    train: train
    val: valid+test
    seeds: [0, 1, 2]
    baseline: without           # the run that the others are compared with
    speed: true                 # also the milliseconds of an image, of every run's model in turn
    preset: small               # of every run that names no other
    set: {train.epochs: 12}     # settings of every run, as dotted keys
    runs:
      - name: without
        set: {loss.mimic_classification: 0.0, loss.mimic_boxes: 0.0}
      - name: with
        published: 39.0 AP      # shown beside
      - name: taught
        set: {task: distill, distill.teachers: ["run:with"]}   # the model of another run, of the same seed if it has it
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from mimicdet.config import Settings
from mimicdet.errors import UserError
from mimicdet.settings_file import (
    FIELDS,
    SECTIONS,
    Layer,
    check_key,
    expectation,
    nearest,
    parse_yaml,
    preset_file,
    read_layer,
    resolve,
    shown,
)

TEACHER_RUN = "run:"

_SET = "set: {train.epochs: 12}"
_FORMS = {
    "name": "it should be a name in letters",
    "seeds": "it should be a list of whole numbers such as [0, 1, 2]",
    "runs": "it should be a list of at least one run, each beginning with '- name: NAME'",
    "set": f"it should hold settings, such as {_SET}",
}
"""What the values of keys should be where pydantic speaks of tuples and objects."""
_LONGEST = 80
"""Characters of a value that a message shows."""


class PlannedRun(BaseModel):
    """One row of the table."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Annotated[str, Field(min_length=1)]
    preset: str | None = None
    set: dict[str, Any] = {}
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    published: str = ""


class Study(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    title: str
    about: str = ""
    data: str | None = None
    train: str = "train"
    val: str = "val"
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    baseline: str | None = None
    speed: bool = False
    preset: str | None = None
    set: dict[str, Any] = {}
    runs: Annotated[tuple[PlannedRun, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Job:
    """One training: a run with one seed."""

    run: str
    seed: int
    folder: Path
    settings: Settings
    needs: tuple[str, ...]  # names of the runs that teach it

    @property
    def name(self) -> str:
        return f"{self.run}, seed {self.seed}"


def read_study(file: Path) -> Study:
    """The file, checked.

    Raises:
        UserError: it cannot be read, or does not say what a study needs.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: the study cannot be read ({error}); give a YAML file") from error
    content = parse_yaml(text, str(file))
    if not isinstance(content, dict):
        what = "is empty" if content is None else "holds no study"
        raise UserError(
            f"{file} {what}: it should have lines such as 'title: WHAT IT SHOWS' and 'runs:' with runs below"
        )
    try:
        study = Study.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise UserError(f"{file}: {_explain(_first(error), content)}") from error
    names = [run.name for run in study.runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{file}: two runs are called '{min(twice)}'; give each a name of its own")
    slugs = [_slug(name) for name in names]
    if twice := {slug for slug in slugs if slugs.count(slug) > 1}:
        raise UserError(f"{file}: two runs' folders would be called '{min(twice)}'; make their names differ in letters")
    for where, seeds in [
        ("seeds", study.seeds),
        *((f"the seeds of '{run.name}'", run.seeds or ()) for run in study.runs),
    ]:
        if twice_drawn := {seed for seed in seeds if seeds.count(seed) > 1}:
            raise UserError(f"{file}: {where} hold {min(twice_drawn)} twice; name each once")
    if study.baseline is not None and study.baseline not in names:
        raise UserError(f"{file}: baseline '{study.baseline}' is none of the runs: {', '.join(names)}")
    return study


def plan(study: Study, file: Path, out: Path) -> list[Job]:
    """Every training of a study, teachers before their students.

    Raises:
        UserError: settings that are not to be had or do not go together, and teachers that are no runs of the study.
    """
    jobs: list[Job] = []
    by_name = {run.name: run for run in study.runs}
    for run in study.runs:
        preset = run.preset or study.preset
        where = f"in {file}, run '{run.name}'"
        layers = [read_layer(preset_file(preset, where))] if preset else []
        for values in (study.set, run.set):
            for key in values:
                check_key(key, where)
        for seed in run.seeds or study.seeds:
            values = {**study.set, **run.set, "train.seed": seed}
            needs: list[str] = []
            if not isinstance(values.get("distill.teachers", []), list):
                raise UserError(f'{where}: distill.teachers must be a list, such as ["run:NAME"]')
            if "distill.teachers" in values:
                values["distill.teachers"] = [
                    _teacher(str(t), seed, by_name, study, out, needs, where) for t in values["distill.teachers"]
                ]
            settings = resolve([*layers, Layer(where, values)])
            jobs.append(Job(run.name, seed, folder_of(out, run.name, seed), settings, tuple(needs)))
    return _ordered(jobs, file)


def folder_of(out: Path, run: str, seed: int) -> Path:
    """Where a run's training with a seed lies."""
    return out / _slug(run) / f"seed{seed}"


def _first(error: ValidationError) -> ErrorDetails:
    """Of pydantic's findings: an unknown key, which may be why another is missing, or else the first one."""
    findings = error.errors(include_url=False)
    return next((finding for finding in findings if finding["type"] == "extra_forbidden"), findings[0])


def _explain(finding: ErrorDetails, content: dict[str, Any]) -> str:
    """What pydantic found in a study, in one sentence without the file."""
    path, values, where = list(finding["loc"]), content, ""
    keys = list(Study.model_fields)
    if path[0] == "runs" and len(path) > 1:
        run = content["runs"][path[1]]
        if len(path) == 2:
            return f"run {int(path[1]) + 1} is {_short(run)}; it should be 'name: NAME' with its other keys below it"
        name = run.get("name")
        named = f"'{name}'" if isinstance(name, str) and name else str(int(path[1]) + 1)
        path, values, where = path[2:], run, f" of run {named}"
        keys = list(PlannedRun.model_fields)
    key = str(path[0])
    if finding["type"] == "extra_forbidden":
        return f"unknown key '{key}'{where}; {_key_hint(key, keys)}"
    if finding["type"] == "missing":
        return f"'{key}'{where} is missing; add '{key}: ...'"
    expected = _FORMS.get(key) if len(path) == 1 else None
    return f"'{key}'{where} is {_short(values[key])}; {expected or expectation(finding, of_item=len(path) > 1)}"


def _key_hint(wrong: str, keys: Sequence[str]) -> str:
    """What to write instead of an unknown key."""
    if wrong in FIELDS or wrong in SECTIONS:
        return f"settings go below 'set', such as {_SET}"
    near = nearest(wrong, keys)
    return f"did you mean '{near}'?" if near else f"there are {', '.join(keys)}"


def _short(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _teacher(
    teacher: str, seed: int, runs: dict[str, PlannedRun], study: Study, out: Path, needs: list[str], where: str
) -> str:
    if not teacher.startswith(TEACHER_RUN):
        return teacher
    name = teacher.removeprefix(TEACHER_RUN)
    if name not in runs:
        raise UserError(f"{where}: the teacher '{name}' is none of the runs: {', '.join(runs)}")
    needs.append(name)
    seeds = runs[name].seeds or study.seeds
    return str(folder_of(out, name, seed if seed in seeds else seeds[0]) / "model-last")


def _ordered(jobs: list[Job], file: Path) -> list[Job]:
    """Teachers first, otherwise as in the file."""
    done: set[str] = set()
    ordered: list[Job] = []
    while waiting := [job for job in jobs if job not in ordered]:
        ready = [job for job in waiting if set(job.needs) <= done]
        if not ready:
            raise UserError(f"{file}: '{waiting[0].run}' and its teachers teach each other in a circle")
        ordered += ready
        done |= {job.run for job in ready}
    return ordered


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "run"
