"""``mimicdet study`` from end to end: trains, skips what is finished, writes the table."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from pathlib import Path

import pytest

from mimicdet.cli import main
from mimicdet.lab.study.evidence import EVIDENCE, Outcome, Speed, read_evidence, write_evidence
from mimicdet.lab.study.execute import ROUNDS
from mimicdet.settings_file import dump_settings
from tests.commands.test_end_to_end import write_split
from tests.engine.test_distill import student
from tests.fakes.toy import toy_data


def only(folder: Path) -> Outcome:
    """A run's evidence."""
    (outcome,) = read_evidence(folder)
    return outcome


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a teacher, a student alone with two seeds, and a student that is taught."""
    folder = tmp_path_factory.mktemp("study")
    write_split(folder / "cells", "train", toy_data(folder / "cells/train", images=6))
    write_split(folder / "cells", "valid", toy_data(folder / "cells/valid", images=4, empty=(1,)))
    flat = {}
    import yaml

    for section, values in yaml.safe_load(dump_settings(student(train={"epochs": 1}))).items():
        if isinstance(values, dict):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
    flat = {k: v for k, v in flat.items() if k.split(".")[0] in ("model", "data", "optim", "train", "inference")}
    taught = {"task": "distill", "distill.teachers": ["run:teacher"], "distill.trust_teacher": True}
    study = {
        "title": "Toy",
        "data": "cells",
        "val": "valid",
        "seeds": [0, 1],
        "baseline": "alone",
        "speed": True,
        "set": {"task": "detect", **flat},
        "runs": [
            {"name": "teacher", "seeds": [0], "set": {"train.seed": 0}},
            {"name": "alone"},
            {"name": "taught", "published": "+2.9 AP", "seeds": [0], "set": taught},
        ],
    }
    (folder / "toy.yaml").write_text(json.dumps(study))
    assert (
        main(["study", str(folder / "toy.yaml"), "--out", str(folder / "out"), "--parallel", "2", "--samples", "20"])
        == 0
    )
    return folder


def test_the_table(finished: Path) -> None:
    text = (finished / "out/table.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["run", ":------" if ":------" in rows else rows[1], *rows[2:]]
    for name in ("teacher", "alone", "taught", "baseline", "+2.9 AP", "4 images"):
        assert name in text
    assert (finished / "out/table.png").read_bytes().startswith(b"\x89PNG")
    with (finished / "out/table.csv").open() as file:
        lines = {line["name"]: line for line in csv.DictReader(file)}
    assert lines["alone"]["seeds"] == "0 1"
    assert lines["taught"]["seeds"] == "0"
    outcome = only(finished / "out/taught/seed0")
    assert float(lines["taught"]["ap"]) == pytest.approx(100 * outcome.metrics["AP"], abs=0.01)
    assert lines["taught"]["difference"]
    assert lines["alone"]["difference"] == ""
    with (finished / "out/diagnostics.csv").open() as file:
        (line,) = (line for line in csv.DictReader(file) if line["run"] == "taught")
    assert line["seed"] == "0"
    assert float(line["teacher_score_lead"]) == pytest.approx(outcome.diagnostics["teacher_score_lead"], rel=1e-3)
    assert outcome.data_name == "cells"


def test_finished_runs_are_skipped_and_changed_ones_refused(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("nothing is left to train"))
    words = ["study", str(finished / "toy.yaml"), "--out", str(finished / "out"), "--samples", "5"]
    assert main(words) == 0
    assert capsys.readouterr().out.count("finished before") == 4
    assert main([*words, "--only", "taught"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("finished before") == 2  # and its teacher; the table has all
    assert "alone" in shown
    changed = finished / "changed.yaml"
    changed.write_text((finished / "toy.yaml").read_text().replace('"optim.lr": 0.01', '"optim.lr": 0.02'))
    assert main(["study", str(changed), "--out", str(finished / "out"), "--table"]) == 2
    assert "with other settings than the study has now" in capsys.readouterr().err
    changed.write_text((finished / "toy.yaml").read_text().replace('"val": "valid"', '"val": "train"'))
    assert main(["study", str(changed), "--out", str(finished / "out"), "--table"]) == 2
    assert "measured on 'valid', the study names 'train' and 'train'" in capsys.readouterr().err
    assert main(["study", str(changed), "--out", str(finished / "out")]) == 2
    assert "with other data than the study has now" in capsys.readouterr().err


def test_every_run_is_timed_beside_the_others(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once; again where a run has become another; and said when it cannot be."""
    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    folders = [out / name for name in ("alone/seed0", "taught/seed0", "teacher/seed0")]

    def times() -> list[list[float]]:
        return [speed.milliseconds for folder in folders if (speed := only(folder).speed) is not None]

    def without(folder: Path) -> None:
        write_evidence([only(folder).model_copy(update={"speed": None})], folder)

    before = times()
    assert only(out / "alone/seed1").speed is None
    assert all(len(milliseconds) == ROUNDS and min(milliseconds) > 0 for milliseconds in before)
    speeds = [only(folder).speed or Speed(milliseconds=[], runs=[], device="") for folder in folders]
    assert all(set(speed.runs) == {"teacher", "alone", "taught"} for speed in speeds)
    header, _, *rows = [line.split("|") for line in (out / "table.md").read_text().splitlines() if line[:2] == "| "]
    column = [cell.strip() for cell in header].index("ms (ratio)")
    shown = {row[1].strip(): row[column].strip() for row in rows}
    assert shown["alone"].endswith("(1.00)")
    assert float(shown["teacher"].split()[0]) == pytest.approx(statistics.median(before[2]), abs=0.051)
    assert (out / "speed.png").read_bytes().startswith(b"\x89PNG")

    words = ["study", str(finished / "toy.yaml"), "--out", str(out), "--samples", "5"]
    assert main(words) == 0
    assert times() == before
    without(folders[1])  # as a run that was trained anew
    assert main(words) == 0
    assert all(a != b for a, b in zip(times(), before, strict=True))

    without(folders[1])
    shutil.rmtree(out / "taught/seed0/model-last")
    assert main(words) == 2
    assert "no speeds: the weights of 'taught, seed 0' are gone" in capsys.readouterr().err
    assert "| taught" in (out / "table.md").read_text()


def test_a_finished_study_may_be_moved(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its students' teachers move with it; and what is not finished is named."""
    shutil.copytree(finished / "out", tmp_path / "runs/elsewhere")
    shutil.rmtree(tmp_path / "runs/elsewhere/alone/seed1")
    monkeypatch.chdir(tmp_path)
    words = ["study", str(finished / "toy.yaml"), "--out", "runs/elsewhere", "--samples", "5", "--table"]
    assert main(words) == 0
    text = (tmp_path / "runs/elsewhere/table.md").read_text()
    assert "taught" in text
    assert "Not trained yet: alone (seed 1)." in text
    assert "Not trained yet" not in (finished / "out/table.md").read_text()


def test_the_table_needs_neither_data_nor_weights_nor_detections(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runs' evidence is enough for it, and so is the study's alone; data that are given are compared."""
    runs = tmp_path / "runs"
    for source in finished.glob("out/*/seed?"):
        target = runs / source.relative_to(finished / "out")
        target.mkdir(parents=True)
        shutil.copy(source / EVIDENCE, target)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(finished / "out" / EVIDENCE, alone)
    file = tmp_path / "toy.yaml"
    file.write_text((finished / "toy.yaml").read_text().replace('"cells"', '"nowhere/cells"'))
    for out in (runs, alone):
        assert main(["study", str(file), "--out", str(out), "--samples", "20", "--table"]) == 0
        for name in ("table.csv", "table.md", "differences.csv", "diagnostics.csv"):
            written = (out / name).read_text().replace(str(file), str(finished / "toy.yaml"))
            assert written == (finished / "out" / name).read_text()
        for name in ("table.png", "speed.png", EVIDENCE):
            assert (out / name).read_bytes() == (finished / "out" / name).read_bytes()
        assert main(["study", str(file), "--out", str(out), "--plan"]) == 0
        assert capsys.readouterr().out.endswith("4 of 4 trainings are finished\n")
    words = ["study", str(file), "--out", str(runs), "--samples", "20", "--table"]
    assert main([*words, "--data", str(finished / "cells")]) == 0
    assert main([*words, "--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere, which --data names, is not there" in capsys.readouterr().err
    other = runs / "alone/seed0"
    data = only(other).data.replace(" -> valid ", " -> valid 0")
    write_evidence([only(other).model_copy(update={"data": data})], other)
    assert main(words) == 2
    assert "were finished on different data" in capsys.readouterr().err
    assert main([*words, "--data", str(finished / "cells")]) == 2
    assert "with other data than the study has now" in capsys.readouterr().err
    (runs / "alone/seed1" / EVIDENCE).write_text("{")
    assert main(words) == 2
    assert "seed1/evidence.npz is damaged" in capsys.readouterr().err


def test_evidence_without_its_runs_is_not_trained_over(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(finished / "out" / EVIDENCE, tmp_path)
    words = ["study", str(finished / "toy.yaml"), "--out", str(tmp_path)]
    assert main(words) == 2
    assert "is there without the runs that it is of; give --table for its table" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [EVIDENCE]


def test_a_study_beside_takes_over_what_is_finished(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other name, other table; the taught run is left out, for its teacher could be another."""
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("nothing is left to train"))
    study = json.loads((finished / "toy.yaml").read_text())
    study["runs"] = [run for run in study["runs"] if run["name"] == "alone"]
    study["runs"][0]["name"] = study["baseline"] = "the same by another name"
    file = finished / "other.yaml"  # beside the first one, whose data it names
    file.write_text(json.dumps(study))
    shutil.copytree(finished / "out", tmp_path / "runs/first")
    assert main(["study", str(file), "--out", str(tmp_path / "runs/second"), "--samples", "5"]) == 0
    shown = capsys.readouterr().out
    for seed in (0, 1):
        source = tmp_path / f"runs/first/alone/seed{seed}"
        assert f"the same by another name, seed {seed}: finished in {source}, taken over" in shown
    speed = only(tmp_path / "runs/second/the-same-by-another-name/seed0").speed
    assert speed is not None
    assert speed.runs == ["the same by another name"], "measured here, not taken over"
    assert "the same by another name" in (tmp_path / "runs/second/table.md").read_text()


def test_the_plan_trains_nothing_and_needs_no_data(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("nothing is to be trained"))
    file = tmp_path / "toy.yaml"  # beside which there are no data
    shutil.copy(finished / "toy.yaml", file)
    assert main(["study", str(file), "--out", str(finished / "out"), "--plan"]) == 0
    assert capsys.readouterr().out.endswith("4 of 4 trainings are finished\n")
    assert main(["study", str(file), "--out", str(tmp_path / "out"), "--plan", "--only", "alone"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("0 of 2 trainings are finished\n")
    assert shown.count("to be trained") == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_failures_are_told_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    study = json.loads((finished / "toy.yaml").read_text())
    bad = {"name": "bad", "seeds": [0], "set": {"model.weights": "nowhere.pth"}}
    study["runs"] = [bad, {"name": "alone", "seeds": [0]}]
    file = tmp_path / "bad.yaml"
    file.write_text(json.dumps(study))
    words = ["study", str(file), "--data", str(finished / "cells"), "--out", str(tmp_path / "out"), "--samples", "5"]
    assert main(words) == 2
    shown = capsys.readouterr()
    assert "bad, seed 0: " in shown.err
    assert "nowhere.pth" in shown.err
    assert "alone" in (tmp_path / "out/table.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "none"], "has no run 'none'; it has teacher, alone, taught"),
        (["--parallel", "0"], "must be 1 or more"),
        (["--plan", "--table"], "--plan and --table exclude each other"),
        (["--data", "nowhere"], "nowhere, which --data names, is not there; give --data FOLDER (docs/data.md says"),
    ],
)
def test_wrong_options(finished: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(finished / "toy.yaml"), *words]) == 2
    assert message in capsys.readouterr().err


def test_data_that_are_not_there(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file's own data, of whoever wrote it."""
    file = tmp_path / "toy.yaml"
    shutil.copy(finished / "toy.yaml", file)
    assert main(["study", str(file)]) == 2
    assert f"{tmp_path / 'cells'}, which 'data' in {file} names, is not there; give --data" in capsys.readouterr().err


def test_a_study_at_a_size(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its runs lie in a folder of its own, and the command above its table names it."""
    study = json.loads((finished / "toy.yaml").read_text())
    flat, runs = study.pop("set"), [run for run in study.pop("runs") if run["name"] == "alone"]
    (tmp_path / "sizes").mkdir()
    (tmp_path / "sizes/toy.yaml").write_text(json.dumps({"families": {"gfl": {"set": flat}}}))
    del study["data"]
    file = tmp_path / "sized.yaml"
    file.write_text(json.dumps({**study, "family": "gfl", "sizes": {"toy": {}, "other": {}}, "runs": runs}))
    words = ["study", str(file), "--out", str(finished / "out"), "--samples", "5"]
    assert main(words) == 2
    assert "is made for several sizes; give --size, one of toy, other" in capsys.readouterr().err
    assert main([*words, "--size", "toy"]) == 2
    assert f"{file} names no data; add 'data: FOLDER' to it, or give --data" in capsys.readouterr().err
    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    assert main(["study", str(file), "--out", str(out), "--samples", "5", "--size", "toy", "--table"]) == 0
    assert f"of cells: 4 images. The study is {file}, size toy; trained on" in (out / "table.md").read_text()


def test_torchrun_is_refused(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of its processes would train the whole study."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(["study", str(finished / "toy.yaml")]) == 2
    assert "without torchrun, with --parallel" in capsys.readouterr().err
