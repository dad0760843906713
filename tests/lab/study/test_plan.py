"""What a study's file asks for, and what is said when it makes no sense."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mimicdet.errors import UserError
from mimicdet.lab.study.plan import folder_of, plan, read_study
from mimicdet.settings_file import preset_file

GOOD = """\
title: Teaching
data: here
seeds: [0, 1]
baseline: alone
preset: small_gfl
set: {train.epochs: 3}
runs:
  - name: alone
  - name: + RM
    set: {task: distill, distill.teachers: ["run:big one"], distill.imitation: 0.0}
    published: 40.4 AP
  - name: big one
    preset: small_retinanet
    set: {train.epochs: 5}
    seeds: [7]
"""


def write(folder: Path, text: str = GOOD) -> Path:
    file = folder / "study.yaml"
    file.write_text(text)
    return file


def test_jobs(tmp_path: Path) -> None:
    file = write(tmp_path)
    jobs = plan(read_study(file), file, tmp_path / "out")
    assert [(job.run, job.seed) for job in jobs] == [
        ("alone", 0), ("alone", 1), ("big one", 7), ("+ RM", 0), ("+ RM", 1)
    ]  # fmt: skip
    alone, teacher, taught = jobs[0], jobs[2], jobs[4]
    assert (alone.settings.train.epochs, alone.settings.train.seed, alone.settings.model.family) == (3, 0, "gfl")
    assert (teacher.settings.train.epochs, teacher.settings.train.seed) == (5, 7)
    assert teacher.settings.model.family == "retinanet"
    assert taught.settings.distill.teachers == (str(tmp_path / "out/big-one/seed7/model-last"),)
    assert taught.settings.distill.imitation == 0
    assert taught.needs == ("big one",)
    assert taught.folder == folder_of(tmp_path / "out", "+ RM", 1) == tmp_path / "out/rm/seed1"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: Teaching\n", "", "study.yaml: 'title' is missing"),
        ("baseline: alone", "baseline: none", "baseline 'none' is none of the runs: alone, "),
        ("run:big one", "run:bigger", "run '\\+ RM': the teacher 'bigger' is none of the runs"),
        ("name: big one", "name: alone", "two runs are called 'alone'"),
        ("name: big one", "name: rm!", "two runs' folders would be called 'rm'"),
        ("train.epochs: 3", "train.epoch: 3", "unknown setting 'train.epoch' in .*run 'alone'; did you mean 'train.ep"),
        ("train.epochs: 3", "train.epochs: -3", "setting 'train.epochs' in .*run 'alone' is -3"),
        ("preset: small_gfl", "preset: smal_gfl", "no preset 'smal_gfl' in .*, run 'alone'; did you mean 'small_g"),
        ("preset: small_gfl", "preset: my.yaml", "no preset 'my.yaml' in .*, run 'alone'; did you mean 'small'"),
        ("seeds: [0, 1]", "seeds: []", "'seeds' is \\[\\]; it should be a list of whole numbers such as"),
        ("seeds: [0, 1]", "seeds: [0, 1, 0]", "study.yaml: seeds hold 0 twice"),
        ("seeds: [7]", "seeds: [7, 7]", "the seeds of 'big one' hold 7 twice"),
        ("seeds: [7]", "seeds: []", "'seeds' of run 'big one' is \\[\\]; it should be a list"),
        ('["run:big one"]', '"run:big one"', "distill.teachers must be a list"),
        ("seeds: [7]", "sedes: [7]", "study.yaml: unknown key 'sedes' of run 'big one'; did you mean 'seeds'"),
        ("baseline: alone", "baselin: alone", "study.yaml: unknown key 'baselin'; did you mean 'baseline'"),
        ("title: Teaching", "tittle: Teaching", "unknown key 'tittle'; did you mean 'title'"),
        ("data: here", "xyzzy: here", "unknown key 'xyzzy'; there are title, about, data, "),
        ("data: here", "optim.lr: 1", "unknown key 'optim.lr'; settings go below 'set', such as set: {train"),
        ("seeds: [7]", "train: {epochs: 7}", "unknown key 'train' of run 'big one'; settings go below 'set'"),
        ("seeds: [0, 1]", "seeds: 3", "study.yaml: 'seeds' is 3; it should be a list of whole numbers such as"),
        ("seeds: [0, 1]", "seeds: [0, a]", """'seeds' is \\[0, "a"\\]; "a" in it should be a valid integer"""),
        ("title: Teaching", "title: 5", "'title' is 5; it should be a valid string"),
        ("set: {train.epochs: 5}", "set: 5", "'set' of run 'big one' is 5; it should hold settings, such as set: {tr"),
        ("name: alone\n", "preset: small\n", "'name' of run 1 is missing"),
        ("name: alone\n", "name: ''\n", """'name' of run 1 is ""; it should be a name"""),
        ("- name: alone\n", "- alone\n", 'run 1 is "alone"; it should be .name: NAME'),
        ("{train.epochs: 5}", '{task: distill, distill.teachers: ["run:+ RM"]}', "teach each other in a circle"),
    ],
)  # fmt: skip
def test_faults_are_explained(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    file = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UserError, match=message):
        plan(read_study(file), file, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "study.yaml is empty: it should have lines such as 'title: "),
        ("# title: later", "study.yaml is empty"),
        ("- name: alone", "study.yaml holds no study: it should have lines such as 'title: "),
        ("title: T\nruns: []", "study.yaml: 'runs' is \\[\\]; it should be a list of at least one run, "),
        ("title: T\nruns:", "study.yaml: 'runs' is empty; it should be a list of at least one run, "),
        ("title: T\nruns: {name: " + 200 * "a" + "}", "'runs' is .{80}\\.\\.\\.; it should be a list"),
        ("title: T", "study.yaml: 'runs' is missing; add 'runs: ...'"),
    ],
)
def test_files_that_are_no_study(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_study(write(tmp_path, text))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the study cannot be read"):
        read_study(tmp_path / "none.yaml")


STUDIES = sorted((Path(__file__).parents[3] / "studies").glob("*.yaml"))


@pytest.mark.parametrize("file", STUDIES, ids=[file.stem for file in STUDIES])
def test_the_studies_that_come_along_can_be_planned(file: Path) -> None:
    study = read_study(file)
    jobs = plan(study, file, Path("runs"))
    assert {job.run for job in jobs} == {run.name for run in study.runs}


def test_what_a_study_says_was_published_is_what_the_preset_says() -> None:
    """Of the rivals at the paper's size, and of MimicDet with the preset's own backbone."""
    study = read_study(Path(__file__).parents[3] / "studies/table7_coco.yaml")
    for run in (run for run in study.runs if "model.backbone" not in run.set):
        head = preset_file(run.preset or study.preset or "").read_text(encoding="utf-8")
        expected = re.search(r"Expected: ([\d.]+ AP)", head)
        assert expected is not None
        assert run.published.removesuffix(" (test-dev)") == expected[1]
