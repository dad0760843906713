"""What a study's file asks for, at one of its sizes, and what is said when it makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimicdet.errors import UserError
from mimicdet.lab.study.plan import folder_of, plan
from mimicdet.lab.study.study_file import read_study, sizes_of

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
    expected = [("alone", 0), ("alone", 1), ("big one", 7), ("+ RM", 0), ("+ RM", 1)]
    assert [(job.run, job.seed) for job in jobs] == expected
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
        ("preset: small_gfl", "preset: my.yaml", "no preset 'my.yaml' in .*, run 'alone'; there are atss"),
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
)
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
        ("title: T\nruns: {name: " + 200 * "a" + "}", "'runs' is .{35,40} \\.\\.\\. a{30,}\"}; it should be a list"),
        ("title: T", "study.yaml: 'runs' is missing; add 'runs: ...'"),
    ],
)
def test_files_that_are_no_study(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_study(write(tmp_path, text))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the study cannot be read"):
        read_study(tmp_path / "none.yaml")


ITS_SIZES = """\
sizes:
  small: {}
  large: {about: Large., seeds: [1, 2], baseline: other, set: {optim.lr: 0.25}}"""
SIZED = f"""\
title: Teaching
baseline: alone
family: gfl
seeds: [5]
set: {{optim.lr: 0.5}}
{ITS_SIZES}
runs:
  - name: alone
    published: 1 AP
  - name: other
    sizes: [large]
    family: retinanet
  - name: own
    sizes: [small]
    preset: small_fcos
    set: {{optim.lr: 0.125, train.epochs: 7}}
"""
SMALL = """\
train: all
val: some
seeds: [0, 1]
published_on: COCO
set: {train.epochs: 3, optim.lr: 1.0}
families:
  gfl: {preset: small_gfl, set: {train.epochs: 4, data.workers: 2}}
"""
LARGE = "families: {gfl: {}, retinanet: {preset: small_retinanet}}"


def write_sized(folder: Path, study: str = SIZED, small: str = SMALL) -> Path:
    (folder / "sizes").mkdir()
    (folder / "sizes/small.yaml").write_text(small)
    (folder / "sizes/large.yaml").write_text(LARGE)
    return write(folder, study)


def test_a_study_at_its_sizes(tmp_path: Path) -> None:
    """A run's settings win over the study's, those over the size's for the family, those over the size's for all."""
    file = write_sized(tmp_path)
    assert sizes_of(file) == ("small", "large")
    small, large = (read_study(file, size) for size in ("small", "large"))
    assert (small.size, small.train, small.val, small.seeds, small.baseline) == ("small", "all", "some", (5,), "alone")
    assert (large.size, large.train, large.about, large.seeds, large.baseline) == (
        "large",
        "train",
        "Large.",
        (1, 2),
        "other",
    )
    assert [run.published for run in small.runs] == ["1 AP (COCO)", ""]
    assert [run.published for run in large.runs] == ["1 AP", ""]
    found = {job.run: job.settings for job in plan(small, file, tmp_path)}
    assert {name: (s.model.family, s.train.epochs, s.optim.lr, s.data.workers) for name, s in found.items()} == {
        "alone": ("gfl", 4, 0.5, 2),
        "own": ("fcos", 7, 0.125, 2),
    }
    found = {job.run: job.settings for job in plan(large, file, tmp_path)}
    assert (found["other"].model.family, found["other"].optim.lr) == ("retinanet", 0.25)


def test_one_size_need_not_be_named(tmp_path: Path) -> None:
    file = write_sized(tmp_path, "title: T\nfamily: gfl\nsizes: {small: {}}\nruns: [{name: alone}]")
    assert read_study(file) == read_study(file, "small")
    assert read_study(file).seeds == (0, 1)


@pytest.mark.parametrize(
    ("old", "new", "size", "message"),
    [
        ("", "", None, "study.yaml is made for several sizes; give --size, one of small, large"),
        ("", "", "lage", "study.yaml has no size 'lage'; it has small, large"),
        (
            "sizes: [small]",
            "sizes: [smal]",
            "small",
            "'sizes' of run 'own' names 'smal', which is no size of the study",
        ),
        ("  small: {}", "  tiny: {}\n  small: {}", "tiny", "sizes/tiny.yaml: the size cannot be read"),
        ("  small: {}", "  small: {abut: A}", "small", "unknown key 'abut' of size 'small'; did you mean 'about'"),
        ("  small: {}", "  small: 3", "small", "size 'small' is 3; it should hold keys such as set: {"),
        (ITS_SIZES, "sizes: [a]", "small", "'sizes' is ..a..; it should hold names of files in the folder 'sizes'"),
        ("family: gfl", "family: glf", "small", "run 'alone' is of a family that .*small.yaml does not have; add it"),
        ("sizes: [large]", "sizes: [small, large]", "small", "run 'other' is of a family that .*small.yaml does not"),
        ("baseline: alone", "baseline: other", "small", "baseline 'other' is none of the runs: alone, own"),
    ],
)
def test_faults_of_sizes_are_explained(tmp_path: Path, old: str, new: str, size: str | None, message: str) -> None:
    assert old in SIZED
    with pytest.raises(UserError, match=message):
        read_study(write_sized(tmp_path, SIZED.replace(old, new) if old else SIZED), size)


@pytest.mark.parametrize(
    ("small", "message"),
    [
        ("", "sizes/small.yaml is empty: it should have lines such as 'seeds: "),
        ("sedes: [1]", "sizes/small.yaml: unknown key 'sedes'; did you mean 'seeds'"),
        ("train.epochs: 1", "unknown key 'train.epochs'; settings go below 'set'"),
        ("families: {gfl: {presett: a}}", "unknown key 'presett' of family 'gfl'; did you mean 'preset'"),
        ("families: {gfl: small_gfl}", 'family .gfl. is "small_gfl"; it should hold keys such as set: {'),
        ("set: {train.epoch: 1}", "unknown setting 'train.epoch' in .*sizes/small.yaml; did you mean 'train.epochs'"),
        ("families: {gfl: {set: {train.epoch: 1}}}", "unknown setting 'train.epoch' in .*sizes/small.yaml; did you"),
    ],
)
def test_faults_of_a_sizes_file_are_explained(tmp_path: Path, small: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_study(write_sized(tmp_path, small=small), "small")


def test_a_study_without_sizes_has_none(tmp_path: Path) -> None:
    file = write(tmp_path)
    assert (sizes_of(file), read_study(file).size) == ((), None)
    with pytest.raises(UserError, match=r"study\.yaml has no sizes; leave --size out"):
        read_study(file, "small")
