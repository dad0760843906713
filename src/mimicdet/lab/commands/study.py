"""``mimicdet study``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic.dataclasses import dataclass

from mimicdet.commands.parser import DOCUMENTED, Argument

if TYPE_CHECKING:
    from mimicdet.lab.study.plan import Job

EXAMPLES = """\
mimicdet study studies/table1_aquarium_cpu.yaml --data aquarium     trains what is missing, then writes the table
mimicdet study my_study.yaml --out runs/my_study --parallel 2       two trainings at a time
mimicdet study my_study.yaml --only "student alone" "+ RM"          some of its runs
mimicdet study my_study.yaml --plan                                 what is finished and what is to be done, no training
mimicdet study my_study.yaml --table                                the table of what is finished, no training
"""


@dataclass(frozen=True, kw_only=True, config=DOCUMENTED)
class Study:
    """Trains a list of runs with several seeds each and compares them in a table.

    The file names runs by preset, settings and seeds. A run that is finished, in this study or in one whose folder lies
    beside it, is not trained again; an interrupted one goes on. The folder gets table.md, table.csv and table.png: mean
    and spread over the seeds, and differences from the baseline with an interval over the images; those of each two
    runs are in differences.csv. What the logs say of the last epoch (recall of the proposals, cosines, where the S-head
    looks) is in diagnostics.csv. Where the file says 'speed: true', also the time of an image, and speed.png.
    """

    file: Annotated[Path, Argument("FILE", positional=True)]
    """The study is described in this YAML file."""
    data: Annotated[Path | None, Argument("DATA")] = None
    """The data set is this folder; by default the one that the file says."""
    out: Annotated[Path | None, Argument("FOLDER")] = None
    """Runs and table go to this folder; by default runs/NAME_OF_FILE."""
    only: Annotated[tuple[str, ...], Argument("NAME")] = ()
    """Only these runs are trained, and those that teach them; the table holds all that are finished."""
    parallel: Annotated[int, Argument("N")] = 1
    """So many trainings run at a time; each on a GPU of its own where there are GPUs."""
    reuse: bool = True
    """Runs that studies beside --out have finished with the same settings, seed and data are copied; students of other
    runs are not."""
    samples: Annotated[int, Argument("N")] = 1000
    """The intervals are made of so many resamplings of the images."""
    plan: bool = False
    """Nothing is trained: all runs are listed, what is finished, and about how long the rest will take. No data are
    needed."""
    table: bool = False
    """Nothing is trained: the table of what is finished is written. Without --data no data are needed."""

    def run(self) -> int:
        from mimicdet.data.splits import load_dataset
        from mimicdet.errors import UserError
        from mimicdet.lab.study.plan import plan, read_study

        if self.parallel < 1 or self.samples < 1:
            raise UserError("mimicdet study: --parallel and --samples must be 1 or more")
        if self.plan and self.table:
            raise UserError("mimicdet study: --plan and --table exclude each other")
        study = read_study(self.file)
        out = self.out or Path("runs") / self.file.stem
        jobs = everything = plan(study, self.file, out)
        if unknown := set(self.only) - {run.name for run in study.runs}:
            raise UserError(f"{self.file} has no run '{min(unknown)}'; it has {', '.join(r.name for r in study.runs)}")
        if self.only:
            wanted = set(self.only)
            for job in reversed(jobs):  # teachers come before their students
                wanted |= set(job.needs) if job.run in wanted else set()
            jobs = [job for job in jobs if job.run in wanted]
        folder = self.data or (self.file.parent / study.data if study.data else None)
        splits = None
        if self.data or not (self.table or self.plan):  # these are made of what the runs have left
            folder = self._there(folder)
            reading = _how_to_read(self.file, everything)
            splits = tuple(load_dataset(folder, split, **reading) for split in (study.train, study.val))
        from mimicdet.engine.processes import started_by_torchrun  # torch and all
        from mimicdet.lab.study.difference import differences_of
        from mimicdet.lab.study.execute import execute
        from mimicdet.lab.study.outcome import Data, check_agreement, read_outcome
        from mimicdet.lab.study.progress import progress_of, progress_table
        from mimicdet.lab.study.result import lines_of, write_diagnostics, write_results
        from mimicdet.lab.study.speed import measure_speeds, read_speeds

        if started_by_torchrun():
            raise UserError("mimicdet study starts its trainings itself: without torchrun, with --parallel GPUS")
        data = Data(folder, study.train, study.val, *splits) if folder and splits else None
        if self.plan:
            print(progress_table(progress_of(jobs, data, reuse=self.reuse), parallel=self.parallel))
            return 0
        failures: list[str] = []
        if data and not self.table:
            failures = execute(jobs, data, parallel=self.parallel, reuse=self.reuse)
            if study.speed and (why := measure_speeds(everything, data)) is not None:
                failures.append(why)
        outcomes = [found for job in everything if (found := read_outcome(job, data)) is not None]
        if outcomes:
            check_agreement(outcomes, study.train, study.val)
            # What makes it, wherever its runs lie and however many were trained at a time
            command = shlex.join(["mimicdet", "study", str(self.file), *(["--data", folder.name] if folder else [])])
            measured_on = f"{study.val} of {folder.name}" if folder else study.val
            about = f"{measured_on}: {outcomes[0].judged.images} images. `{command}`"
            differences = differences_of(outcomes, samples=self.samples)
            lines = lines_of(study, outcomes, differences, read_speeds(everything) if study.speed else {})
            shown = write_results(study, lines, differences, about, out)
            write_diagnostics(outcomes, out)
            print(f"\n{shown}\n\n{out / 'table.md'}, .csv and .png")
        else:
            print("no run is finished yet")
        if failures:
            raise UserError("; ".join(failures))
        return 0

    def _there(self, folder: Path | None) -> Path:
        """The data's folder; UserError where none is named, or it is not there."""
        from mimicdet.errors import UserError

        if folder is None:
            raise UserError(f"{self.file} names no data; add 'data: FOLDER' to it, or give --data")
        if not folder.exists():
            named = "--data" if self.data else f"'data' in {self.file}"
            raise UserError(
                f"{folder}, which {named} names, is not there; give --data FOLDER (docs/data.md says where the "
                "studies' data are)"
            )
        return folder


def _how_to_read(file: Path, jobs: Sequence[Job]) -> dict[str, Any]:
    """What the runs' settings say of reading the data they are compared on."""
    from mimicdet.errors import UserError

    settings = [job.settings.data for job in jobs]
    if len({one.voc_one_based for one in settings}) > 1:
        raise UserError(f"{file}: data.voc_one_based must be the same for all runs, which share their data")
    return {
        "max_faulty_boxes": max(one.max_faulty_boxes for one in settings),
        "voc_one_based": settings[0].voc_one_based,
    }
