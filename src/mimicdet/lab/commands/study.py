"""Has the command ``mimicdet study``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic.dataclasses import dataclass

from mimicdet.commands.parser import DOCUMENTED, Argument
from mimicdet.errors import UserError, message, near_path
from mimicdet.files import failures_of, require_unbroken
from mimicdet.lab.study.plan import Job, plan
from mimicdet.lab.study.study_file import StudyFile, read_study

if TYPE_CHECKING:
    from mimicdet.lab.study.outcome import Outcome

EXAMPLES = """\
mimicdet study studies/table1.yaml --size aquarium_cpu --data aquarium   trains what is missing, then writes the table
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
    looks) is in diagnostics.csv. Where the file says 'speed: true', also the time of an image, and speed.png. All of it
    can be made again of evidence.npz, one small file.
    """

    file: Annotated[Path, Argument("FILE", positional=True)]
    """The study is described in this YAML file."""
    data: Annotated[Path | None, Argument("DATA")] = None
    """The data set is this folder; by default the one that the file says."""
    size: Annotated[str | None, Argument("NAME")] = None
    """The study is made at this one of its sizes; by default the only one."""
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
        if self.parallel < 1 or self.samples < 1:
            raise UserError("mimicdet study: --parallel and --samples must be 1 or more")
        if self.plan and self.table:
            raise UserError("mimicdet study: --plan and --table exclude each other")
        study = read_study(self.file, self.size)
        out = self.out or Path("runs") / "_".join(filter(None, [self.file.stem, study.size]))
        require_unbroken(out)
        everything = plan(study, self.file, out)
        jobs = self._wanted(study, everything)
        # Without the data, tables are made of what the runs have left
        sets = self._load(study, everything) if self.data or not (self.table or self.plan) else None

        from mimicdet.engine.processes import started_by_torchrun  # torch and all
        from mimicdet.lab.study.evidence import EVIDENCE
        from mimicdet.lab.study.execute import execute, measure_speeds
        from mimicdet.lab.study.outcome import Data, finished_jobs, progress_of, progress_table

        if started_by_torchrun():
            raise UserError("mimicdet study starts its trainings itself: without torchrun, with --parallel GPUS")
        data = Data(*sets) if sets else None
        if self.plan:
            print(progress_table(progress_of(jobs, out, data, reuse=self.reuse), parallel=self.parallel))
            return 0
        failures: list[str] = []
        if data and not self.table:
            if (out / EVIDENCE).is_file() and not any(job.folder.exists() for job in everything):
                way_out = "give --table for its table, or another --out to train anew"
                raise UserError(f"{out / EVIDENCE} is there without the runs that it is of; {way_out}")
            failures = execute(jobs, data, parallel=self.parallel, reuse=self.reuse)
            outcomes = finished_jobs(everything, out, data)
            if study.speed and outcomes and (why := measure_speeds(outcomes, data.val_set)) is not None:
                failures.append(why)
        if outcomes := finished_jobs(everything, out, data):
            failures += failures_of(partial(self._report, study, outcomes, out))
        else:
            print("no run is finished yet")
        if failures:
            raise UserError("; ".join(failures))
        return 0

    def _wanted(self, study: StudyFile, jobs: Sequence[Job]) -> list[Job]:
        """Returns the jobs of the runs in ``only``, and of those that teach them."""
        wanted = set(self.only)
        if unknown := wanted - {run.name for run in study.runs}:
            raise UserError(f"{self.file} has no run '{min(unknown)}'; it has {', '.join(r.name for r in study.runs)}")
        for job in reversed(jobs):  # teachers come before their students
            wanted |= set(job.needs) if job.run in wanted else set()
        return [job for job in jobs if not wanted or job.run in wanted]

    def _load(self, study: StudyFile, jobs: Sequence[Job]) -> tuple[Any, ...]:
        """Returns the data's folder, the names of both splits, and both splits; UserError where it is not there."""
        from mimicdet.data.splits import load_dataset

        folder = self.data or (self.file.parent / study.data if study.data else None)
        if folder is None:
            raise UserError(f"{self.file} names no data; add 'data: FOLDER' to it, or give --data")
        if not folder.exists():
            named = "--data" if self.data else f"'data' in {self.file}"
            way_out = "give --data FOLDER (docs/data.md says where the studies' data are)"
            raise UserError(f"{folder}, which {named} names, is not there{near_path(folder)}; {way_out}")
        settings, splits = [job.settings.data for job in jobs], (study.train, study.val)
        most, one_based = max(one.max_faulty_boxes for one in settings), {one.voc_one_based for one in settings}
        if len(one_based) > 1:
            raise UserError(f"{self.file}: data.voc_one_based must be the same for all runs, which share their data")
        reading: dict[str, Any] = {"max_faulty_boxes": most, "voc_one_based": one_based.pop()}
        train_set, val_set = (load_dataset(folder, name, **reading) for name in splits)
        if not any((~record.crowd).any() for record in val_set.images):
            raise UserError(f"{folder}: no image of '{study.val}' has an object, so that no AP is defined; add labels")
        return folder, *splits, train_set, val_set

    def _report(self, study: StudyFile, outcomes: Sequence[Outcome], out: Path) -> None:
        print(f"\n{self._write(study, outcomes, out)}\n\n{message(out / 'table.md')}, .csv and .png")

    def _write(self, study: StudyFile, outcomes: Sequence[Outcome], out: Path) -> str:
        from mimicdet.lab.study.comparison import differences_of, lines_of
        from mimicdet.lab.study.evidence import write_evidence
        from mimicdet.lab.study.outcome import check_agreement
        from mimicdet.lab.study.report import differences_csv, write_report

        check_agreement(outcomes, study.train, study.val)
        folder = self.data or Path(study.data or outcomes[0].data_name)
        # Where data and runs lie is not told: it is another place for everybody
        size = f", size {study.size}" if study.size else ""
        measured_on = f"{study.val} of {folder.name}: {outcomes[0].judged.images} images"
        about = f"{measured_on}. The study is {self.file}{size}; trained"
        differences = differences_of(outcomes, samples=self.samples)
        if outcomes[0].place != out:
            write_evidence(outcomes, out, {"differences.csv": differences_csv(differences)})
        return write_report(study, lines_of(study, outcomes, differences), differences, message(about), out)
