"""metrics.jsonl: one JSON object a line, one for each log interval and each evaluation.

Every record has ``kind`` ("train" or "eval"), ``step`` (optimiser steps taken) and ``epoch`` (a fraction within it).
A "train" record has the means of the task's losses and diagnostics since the one before, ``lr``, ``grad_norm`` and
``grad_norm/<module>`` of its last step, ``skipped_steps`` (so far), ``seconds`` (of training, so far),
``seconds_per_step``, ``data_wait`` (the share of them spent waiting for images) and, on a GPU, ``peak_memory_gib``.
An "eval" record has COCO's numbers, those of the T-head under ``teacher/``. What is undefined is null,
of COCO's numbers -1.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mimicdet.errors import UserError
from mimicdet.files import replace_file

Record = dict[str, Any]


class MetricsFile:
    """The file as training writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Record) -> None:
        """Raises UserError when the disk is full; then the line may be half there, which readers skip."""
        line = json.dumps(_defined(record)) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({os.strerror(error.errno or 0)}); the last checkpoint is intact: "
                "free some space and continue with --resume"
            ) from error

    def keep_first(self, records: int) -> None:
        """Cuts off what comes after the first ``records``: what the run wrote after its last checkpoint.

        In one piece: a crash leaves the old file or the new one.
        """
        kept = list(_complete_lines(self.path))[:records] if self.path.exists() else []
        replace_file(self.path, b"".join(kept))


def read_metrics(path: Path) -> list[Record]:
    """The records of a metrics.jsonl, also of a run that goes on or has crashed in mid-line."""
    return [json.loads(line) for line in _complete_lines(path)]


def _complete_lines(path: Path) -> Iterator[bytes]:
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n"):
            yield line


def _defined(value: Any) -> Any:
    """The value with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _defined(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
