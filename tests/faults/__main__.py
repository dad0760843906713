"""Puts faults in and tells what became of them: ``python -m tests.faults``, or ``make test-faults``.

One table at the end; the exit code is 1 where something was lost or failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

from tests.faults import table
from tests.faults.forked import PRELOADED, ROOT
from tests.faults.table import Line
from tests.faults.works import Inputs, make_inputs


def _mutants(options: argparse.Namespace, place: Path) -> Iterator[Line]:
    from tests.faults.mutants import mutants

    return mutants(place / "mutants", share=options.share, seed=options.seed, jobs=options.jobs)


def _kills(options: argparse.Namespace, place: Path) -> Iterator[Line]:
    from tests.faults.kills import kills

    return kills(_inputs(place), place, share=options.share, seed=options.seed, jobs=options.jobs)


def _full_disk(options: argparse.Namespace, place: Path) -> Iterator[Line]:
    from tests.faults.full_disk import full_disks

    return full_disks(_inputs(place), place, share=options.share, seed=options.seed, jobs=options.jobs)


def _images(options: argparse.Namespace, place: Path) -> Iterator[Line]:
    from tests.faults.images import hostile_images

    return hostile_images(place / "images", share=options.share, seed=options.seed, jobs=options.jobs)


def _evaluation(options: argparse.Namespace, place: Path) -> Iterator[Line]:
    from tests.faults.evaluation import evaluations

    return evaluations(share=options.share, seed=options.seed)


def _soak(options: argparse.Namespace, place: Path) -> Iterator[Line]:
    from tests.faults.soak import soak

    return soak(_inputs(place), place, share=options.share)


def _hosts(options: argparse.Namespace, place: Path) -> Iterator[Line]:
    from tests.faults.hosts import hosts

    return hosts(_inputs(place), place, share=options.share, seed=options.seed)


PARTS: dict[str, Callable[[argparse.Namespace, Path], Iterator[Line]]] = {
    "mutants": _mutants,
    "images": _images,
    "evaluation": _evaluation,
    "soak": _soak,
    "hosts": _hosts,
    "full_disk": _full_disk,
    "kills": _kills,
}


def _inputs(place: Path) -> Inputs:
    folder = place / "inputs"
    return Inputs(folder) if folder.exists() else make_inputs(folder)


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts alone")
    parser.add_argument("--share", type=float, default=1.0, help="this share of all trials")
    parser.add_argument("--seed", type=int, default=0, help="other numbers give other faults")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="so many trials at a time")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="puts the table into this page")
    options = parser.parse_args()
    os.chdir(ROOT)
    PRELOADED.append("tests.faults.preload_export")
    began, lines = time.perf_counter(), []
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        for part in options.only:
            for line in PARTS[part](options, Path(place)):
                lines.append(line)
                print(f"{line.name}: {'good' if line.ok else 'NOT GOOD'} ({line.seconds:.0f} s)", flush=True)
                for complaint in line.complaints():
                    print(f"  {complaint}", flush=True)
                minutes = (time.perf_counter() - began) / 60
                share = "" if options.share == 1 else f", {options.share:.0%} of all trials"
                about = f"{date.today()}, {_machine()}: {minutes:.0f} minutes{share}, seed {options.seed}."
                text = f"{table.table(lines)}\n{about}\n"
                if options.write:  # after each line, so that an hour is not lost with the last
                    table.write(options.write, text)
    print(f"\n{text}")
    return 0 if all(line.ok for line in lines) else 1


def _machine() -> str:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    name = model.partition(": ")[2].strip() or platform.machine()
    return f"{os.cpu_count()} cores of {name}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
