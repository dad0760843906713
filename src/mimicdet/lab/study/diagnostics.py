"""What a run's log says of its end. A result keeps it, for logs and checkpoints are large and are seldom kept."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence

from mimicdet.engine.metrics_file import Record

_DIAGNOSTIC, _TEACHER = "diag/", "teacher/"


def last_diagnostics(records: Sequence[Record]) -> dict[str, float]:
    """Of each diagnostic the mean over the last epoch's records, and the T-head's numbers of the last evaluation.

    Args:
        records: as ``read_metrics`` gives them.

    Returns:
        By the log's names, the diagnostics' without their ``diag/``; those that are never defined are left out.
    """
    trained = [record for record in records if record["kind"] == "train"]
    last = [record for record in trained if record["epoch"] > trained[-1]["epoch"] - 1]
    names = dict.fromkeys(name for record in last for name in record if name.startswith(_DIAGNOSTIC))
    values = {name: [record[name] for record in last if record.get(name) is not None] for name in names}
    found = {name.removeprefix(_DIAGNOSTIC): statistics.fmean(seen) for name, seen in values.items() if seen}
    evaluated = [record for record in records if record["kind"] == "eval"][-1:]
    for record in evaluated:  # COCO says -1 of what is undefined
        found |= {k: v for k, v in record.items() if k.startswith(_TEACHER) and v is not None and v >= 0}
    return found


def diagnostics_csv(found: Mapping[tuple[str, int], Mapping[str, float]]) -> str:
    """(Run, seed) -> its :func:`last_diagnostics`, as a table with a line for each; empty where none has any."""
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    if not names:
        return ""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["run", "seed", *names])
    for (run, seed), values in found.items():
        if values:
            writer.writerow([run, seed, *(f"{values[name]:.4g}" if name in values else "" for name in names)])
    return written.getvalue()
