"""Reads a study's file: runs by preset, settings and seeds, which are compared in one table.

::

    title: What mimicking gives
    data: ../aquarium           # --data on the command line wins; train, val and seeds may stand here too
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

Studies may share sizes, such as one for two CPU cores and one for a GPU. A study of GFL and FCOS at both::

    family: gfl                 # of every run that names no other; mimicdet, if none does
    sizes: {cpu: {}, gpu: {about: With bf16., seeds: [0]}}    # and what holds for this study at this size alone
    runs:
      - name: GFL
      - {name: FCOS, family: fcos, sizes: [gpu]}              # a row at these sizes alone

The file ``sizes/cpu.yaml`` beside it says what all studies have in common there::

    train: train
    val: valid+test
    seeds: [0, 1, 2]
    set: {train.epochs: 8}
    families: {gfl: {preset: small_gfl, set: {model.head_groups: 16}}, fcos: {preset: small_fcos}}
    published_on: COCO          # stands behind what a run says was published

A run's settings win over the study's, those over the size's for the run's family, those over the size's for all.
"""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mimicdet.errors import UserError, near_path, nearest
from mimicdet.settings_file import FIELDS, SECTIONS, check_key, expectation, parse_yaml, shown
from mimicdet.streams import require_plain

_SET = "set: {train.epochs: 12}"
_FORMS = {
    "name": "it should be a name in letters",
    "seeds": "it should be a list of whole numbers such as [0, 1, 2]",
    "runs": "it should be a list of at least one run, each beginning with '- name: NAME'",
    "set": f"it should hold settings, such as {_SET}",
    "sizes": "it should hold names of files in the folder 'sizes', such as sizes: {cpu: {}}",
}
"""Says what the values of keys should be where pydantic speaks of tuples and objects."""

Seeds = Annotated[tuple[int, ...], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PlannedRun(_Part):
    """A run is one row of the table."""

    name: Annotated[str, Field(min_length=1)]
    family: str | None = None
    preset: str | None = None
    set: dict[str, Any] = {}
    seeds: Seeds | None = None
    published: str = ""
    sizes: tuple[str, ...] | None = None


class Changes(_Part):
    """These keys of a study may differ at one of its sizes."""

    about: str = ""
    seeds: Seeds = (0,)
    baseline: str | None = None
    preset: str | None = None
    set: dict[str, Any] = {}


class StudyFile(_Part):
    """A study is the content of its file; read at one of its sizes, it names that one alone."""

    title: str
    about: str = ""
    data: str | None = None
    train: str = "train"
    val: str = "val"
    seeds: Seeds = (0, 1, 2)
    baseline: str | None = None
    speed: bool = False
    family: str = "mimicdet"
    preset: str | None = None
    set: dict[str, Any] = {}
    sizes: dict[str, Changes] = {}
    runs: Annotated[tuple[PlannedRun, ...], Field(min_length=1)]

    @property
    def size(self) -> str | None:
        return next(iter(self.sizes), None)


class _Family(_Part):
    preset: str | None = None
    set: dict[str, Any] = {}


class Size(_Part):
    """A size is what the studies at it have in common."""

    train: str = "train"
    val: str = "val"
    seeds: Seeds = (0, 1, 2)
    set: dict[str, Any] = {}
    families: dict[str, _Family] = {}
    published_on: str = ""


_Item = tuple[str, type[BaseModel]]
_ITEMS: dict[str, _Item] = {"runs": ("run", PlannedRun), "sizes": ("size", Changes), "families": ("family", _Family)}
"""Keys that hold parts with keys of their own; what messages call a part."""
_Content = TypeVar("_Content", StudyFile, Size)


def read_study(file: Path, size: str | None = None) -> StudyFile:
    """Reads a study and checks it, at one of its sizes; that may be left out where there is one at most.

    UserError where a file cannot be read, does not say what a study needs, or has no such size.
    """
    study = _read(StudyFile, file)
    for run in study.runs:
        if no := set(run.sizes or ()) - set(study.sizes):
            raise UserError(f"{file}: 'sizes' of run '{run.name}' names '{min(no)}', which is no size of the study")
    if study.sizes:
        study = _at_size(study, size, file)
    elif size:
        raise UserError(f"{file} has no sizes; leave --size out")
    names = [run.name for run in study.runs]
    if twice := _twice(names):
        raise UserError(f"{file}: two runs are called '{twice[0]}'; give each a name of its own")
    if twice := _twice([slug(name) for name in names]):
        raise UserError(f"{file}: two runs' folders would be called '{twice[0]}'; make their names differ in letters")
    for where, drawn in [("seeds", study.seeds), *((f"the seeds of '{r.name}'", r.seeds or ()) for r in study.runs)]:
        if again := _twice(drawn):
            raise UserError(f"{file}: {where} hold {again[0]} twice; name each once")
    if study.baseline is not None and study.baseline not in names:
        raise UserError(f"{file}: baseline '{study.baseline}' is none of the runs: {', '.join(names)}")
    return study


def sizes_of(file: Path) -> tuple[str, ...]:
    """Returns the names of a study's sizes; UserError as :func:`read_study`."""
    return tuple(_read(StudyFile, file).sizes)


def slug(name: str) -> str:
    """Returns a run's name as its folder has it."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "run"


def _twice(values: Sequence[Any]) -> list[Any]:
    return sorted(value for value in set(values) if values.count(value) > 1)


def _at_size(study: StudyFile, name: str | None, file: Path) -> StudyFile:
    """Returns the study with the rows of a size; each row has the size's settings and preset too."""
    if name is None and len(study.sizes) > 1:
        raise UserError(f"{file} is made for several sizes; give --size, one of {', '.join(study.sizes)}")
    name = name or next(iter(study.sizes))
    if name not in study.sizes:
        raise UserError(f"{file} has no size '{name}'; it has {', '.join(study.sizes)}")
    source = file.parent / "sizes" / f"{name}.yaml"
    size, changes = _read(Size, source), study.sizes[name]
    for key in itertools.chain(size.set, *(family.set for family in size.families.values())):
        check_key(key, f"in {source}")
    shared = {key: getattr(size, key) for key in ("train", "val", "seeds") if key not in study.model_fields_set}
    own = {key: getattr(changes, key) for key in changes.model_fields_set}
    new = {**shared, **own, "set": {**study.set, **changes.set}, "sizes": {name: changes}}
    study = study.model_copy(update=new)
    runs = tuple(_row(run, study, size, source) for run in study.runs if run.sizes is None or name in run.sizes)
    return study.model_copy(update={"runs": runs})


def _row(run: PlannedRun, study: StudyFile, size: Size, source: Path) -> PlannedRun:
    if (family := size.families.get(run.family or study.family)) is None:
        raise UserError(f"run '{run.name}' is of a family that {source} does not have; add it there")
    values = {**size.set, **family.set, **study.set, **run.set}
    preset = run.preset or study.preset or family.preset
    published = f"{run.published} ({size.published_on})" if run.published and size.published_on else run.published
    return run.model_copy(update={"set": values, "preset": preset, "published": published})


def _read(kind: type[_Content], file: Path) -> _Content:
    what = "study" if kind is StudyFile else "size"
    require_plain(file)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        why = f"there is no such file{near_path(file)}"
        raise UserError(f"{file}: the {what} cannot be read ({why}); give a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: the {what} cannot be read ({error}); give a YAML file") from error
    content = parse_yaml(text, str(file))
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds no {what}"
        form = "'title: WHAT IT SHOWS' and 'runs:' with runs below"
        form = form if kind is StudyFile else "'seeds: [0, 1, 2]' and 'set: {train.epochs: 8}'"
        raise UserError(f"{file} {found}: it should have lines such as {form}")
    try:
        return kind.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise UserError(f"{file}: {_explain(error, content, kind)}") from error


def _explain(error: ValidationError, content: dict[str, Any], kind: type[BaseModel]) -> str:
    """Says what pydantic found in a file, in one sentence without the file.

    Of its findings this is an unknown key, which may be why another is missing, or else the first one.
    """
    findings = error.errors(include_url=False)
    finding = next((finding for finding in findings if finding["type"] == "extra_forbidden"), findings[0])
    path, values, where, keys = list(finding["loc"]), content, "", list(kind.model_fields)
    if path[0] in _ITEMS and len(path) > 1:
        called, part = _ITEMS[str(path[0])]
        values = content[str(path[0])][path[1]]
        place = path[1] + 1 if isinstance(path[1], int) else f"'{path[1]}'"
        if len(path) == 2:
            form = "be 'name: NAME' with its other keys below it" if called == "run" else f"hold keys such as {_SET}"
            return f"{called} {place} is {shown(values)}; it should {form}"
        name = values.get("name")
        where = f" of {called} " + (f"'{name}'" if isinstance(name, str) and name else str(place))
        path, keys = path[2:], list(part.model_fields)
    key = str(path[0])
    if finding["type"] == "extra_forbidden":
        near = nearest(key, keys)
        hint = f"did you mean '{near}'?" if near else f"there are {', '.join(keys)}"
        hint = f"settings go below 'set', such as {_SET}" if key in FIELDS or key in SECTIONS else hint
        return f"unknown key '{key}'{where}; {hint}"
    if finding["type"] == "missing":
        return f"'{key}'{where} is missing; add '{key}: ...'"
    expected = _FORMS.get(key) if len(path) == 1 else None
    return f"'{key}'{where} is {shown(values[key])}; {expected or expectation(finding, of_item=len(path) > 1)}"
