"""Keeps evidence: what finished jobs gave, in one small file that tables and intervals are made from.

The file is a NumPy archive that is read without pickle. ``runs.json`` in it holds an :class:`Outcome` for each job, the
arrays hold what became of each detection (:func:`~mimicdet.lab.study.judged.pack`). A job's folder has such a file of
its own, a study's folder one of all its jobs.
"""

import io
import json
from collections.abc import Mapping, Sequence
from lzma import LZMAError
from pathlib import Path
from typing import Any, Self
from zipfile import ZIP_LZMA, BadZipFile, ZipFile, ZipInfo

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic reads the standard library's from Python 3.12 on

from mimicdet.errors import UserError
from mimicdet.files import replace_file
from mimicdet.lab.bench import Timing, ratio
from mimicdet.lab.study.judged import Judged, pack, unpack
from mimicdet.settings_file import shown
from mimicdet.streams import require_plain

EVIDENCE = "evidence.npz"
_RUNS = "runs.json"
_ZIP_FAULTS = (EOFError, NotImplementedError, BadZipFile, LZMAError)
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, RecursionError, *_ZIP_FAULTS)


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Speed(_Part):
    """Holds the time of one run's model, from an image of its own inference size in memory to detections."""

    milliseconds: list[float]  # of each image
    runs: list[str]  # that were measured in turn with it, itself among them
    device: str  # with its threads, if it is a processor

    @property
    def median(self) -> float:
        return Timing(tuple(self.milliseconds)).median

    def over(self, other: Self) -> float | None:
        """Returns this time over that one's, by the images' median; None where they were not measured together."""
        if self.runs != other.runs or self.device != other.device:
            return None
        return ratio(Timing(tuple(self.milliseconds)), Timing(tuple(other.milliseconds)))


@with_config(ConfigDict(strict=True, extra="allow"))
class MetricNumbers(TypedDict):
    """Holds the content of ``MetricNumbers.to_json``, of which a table shows these three."""

    AP: float
    AP50: float
    AP75: float


class Outcome(_Part):
    """Holds what a finished job gave."""

    run: str
    seed: int
    settings: dict[str, Any]  # by dotted name
    data: str  # fingerprint of what it was trained and measured on
    data_name: str  # of the data's folder
    metrics: MetricNumbers
    seconds: float  # of training
    teacher_ap: float | None  # of the T-head at the last evaluation, where it was evaluated
    machine: str  # that measured it
    diagnostics: dict[str, float]  # how its last epoch went; empty where an older version did not keep it
    speed: Speed | None = None  # of its model, where it was measured
    judged: InstanceOf[Judged] = Field(exclude=True)  # its detections on the validation split
    place: Path = Field(exclude=True)  # the folder whose file it is read from


def write_evidence(outcomes: Sequence[Outcome], folder: Path, texts: Mapping[str, str] | None = None) -> None:
    """Writes ``evidence.npz``, of the same bytes for the same outcomes; UserError where that is impossible.

    The outcomes are of the same images and classes. ``texts`` are for readers of the file, by name.
    """
    runs = json.dumps([one.model_dump() for one in outcomes], indent=1)
    members = {name: text.encode() for name, text in {_RUNS: runs, **(texts or {})}.items()}
    for name, array in pack([one.judged for one in outcomes]).items():
        np.save(member := io.BytesIO(), array, allow_pickle=False)
        members[f"{name}.npy"] = member.getvalue()
    written = io.BytesIO()
    with ZipFile(written, "w") as archive:
        for name, content in members.items():
            info = ZipInfo(name)  # of no date
            info.compress_type, info.create_system = ZIP_LZMA, 3  # LZMA makes it a third smaller than NumPy does
            archive.writestr(info, content)
    replace_file(folder / EVIDENCE, written.getvalue())


def read_evidence(folder: Path) -> list[Outcome]:
    """Reads what :func:`write_evidence` wrote; UserError where it is missing or damaged."""
    file = folder / EVIDENCE
    require_plain(file)
    try:
        with np.load(file, allow_pickle=False) as stored:
            rows, judged = json.loads(stored[_RUNS]), unpack(stored)
        parts = zip(rows, judged, strict=True)
        return [Outcome.model_validate({**row, "judged": one, "place": folder}) for row, one in parts]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        why = f"it has no '{name}'" if first["type"] == "missing" else f"its '{name}' is {shown(first['input'])}"
    except _UNREADABLE as error:
        why = str(error)
    way_out = "remove it, or its folder if that has no checkpoints, and run its study again"
    raise UserError(f"{file} is damaged ({why}); {way_out}")
