"""Parts of one head with parts of the other: against what training itself measured of both heads, and by hand."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mimicdet.cli import main
from mimicdet.config import InferenceSettings
from mimicdet.data.batch import Batch
from mimicdet.data.dataset import DetectionDataset
from mimicdet.engine.run_folder import read_metrics
from mimicdet.engine.train import train
from mimicdet.inference.dataset import FunctionRunner, evaluate_runner
from mimicdet.inference.decode import Detections, decode
from mimicdet.lab.explain.gap import ADJUSTED, S_HEAD, T_HEAD, Mixture, measure_mixtures, mix_scores
from mimicdet.models.detector import Predictions
from mimicdet.tasks.build import read_mimic_run
from mimicdet.tasks.mimic import BothHeads
from tests.commands.test_end_to_end import write_split
from tests.engine.toy import toy_data, toy_settings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    folder = tmp_path_factory.mktemp("cells")
    dataset = toy_data(folder / "val")
    write_split(folder, "val", dataset)
    return dataset


@pytest.fixture(scope="module")
def run(data: DetectionDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough for both heads to find something."""
    out = tmp_path_factory.mktemp("run")
    train(settings=toy_settings(epochs=12, eval_every=12, eval_teacher=True), train_data=data, val_data=data, out=out)
    return out


def test_each_head_with_its_own_boxes_is_what_training_measured(run: Path, data: DetectionDataset) -> None:
    mixtures = measure_mixtures(read_mimic_run(run), data, device=torch.device("cpu"))
    assert len(mixtures) == 10
    last = [record for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "eval"][-1]
    assert mixtures[Mixture(S_HEAD, S_HEAD, S_HEAD)].to_json()["AP"] == pytest.approx(last["AP"], abs=1e-9)
    assert mixtures[Mixture(T_HEAD, T_HEAD, T_HEAD)].to_json()["AP"] == pytest.approx(last["teacher/AP"], abs=1e-9)
    assert last["AP"] > 0
    assert last["teacher/AP"] > 0
    assert len({m.to_json()["AP"] for m in mixtures.values()}) > 4


def test_the_t_heads_boxes_with_the_s_heads_scores(run: Path, data: DetectionDataset) -> None:
    trained = read_mimic_run(run)
    task, inference = trained.task.eval(), trained.settings.inference

    def ap_with(choose: Callable[[BothHeads, Predictions], Tensor]) -> float:
        def detect(batch: Batch, inference: InferenceSettings) -> list[Detections]:
            heads = task.both_heads(batch.images, batch.sizes, top=inference.positions)
            s_head, t_head = (
                heads.refined.predictions(heads.positions, head.logits, head.deltas)
                for head in (heads.student, heads.teacher)
            )
            return decode(s_head._replace(boxes=choose(heads, t_head)), batch.sizes, InferenceSettings())

        found = evaluate_runner(FunctionRunner(detect, torch.device("cpu"), 32), data, inference)
        return found.to_json()["AP"]

    def adjusted(heads: BothHeads, _: Predictions) -> Tensor:
        return torch.stack([b[row] for b, row in zip(heads.refined.adjusted_boxes, heads.positions, strict=True)])

    mixtures = measure_mixtures(trained, data, device=torch.device("cpu"))
    assert mixtures[Mixture(S_HEAD, S_HEAD, T_HEAD)].to_json()["AP"] == ap_with(lambda _, t_head: t_head.boxes)
    assert mixtures[Mixture(S_HEAD, S_HEAD, ADJUSTED)].to_json()["AP"] == ap_with(adjusted)


def test_scores_of_two_heads() -> None:
    ours, theirs = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = mix_scores(ours, theirs).softmax(-1)
    p, q = ours.softmax(-1), theirs.softmax(-1)
    for row in range(5):
        assert mixed[row, 3].item() == pytest.approx(p[row, 3].item())
        for k in range(3):
            expected = (1 - p[row, 3]) * q[row, k] / (1 - q[row, 3])
            assert mixed[row, k].item() == pytest.approx(expected.item())
    torch.testing.assert_close(mix_scores(ours, ours).softmax(-1), p)


def test_the_command(run: Path, data: DetectionDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "gap", str(run), "--data", str(data.root.parent), "--out", str(tmp_path / "gap")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    with (tmp_path / "gap/gap.csv").open() as file:
        rows = {(row["foreground"], row["classes"], row["boxes"]): float(row["AP"]) for row in csv.DictReader(file)}
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert rows[S_HEAD, S_HEAD, S_HEAD] == pytest.approx(100 * last["AP"], abs=0.06)
    assert f"keeps {last['AP'] / last['teacher/AP']:.0%} of the T-head's AP" in printed
    assert "T-head" in (tmp_path / "gap/gap.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--pictures", "3"], "explain gap has no --pictures"),
        (["--against", "other"], "explain gap has no --against"),
        (["--images", "a.jpg"], "explain gap has no --images"),
        (["--device", "nowhere"], "device 'nowhere' cannot be used"),
    ],
)
def test_what_it_refuses(
    run: Path, data: DetectionDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str],
    message: str,
) -> None:  # fmt: skip
    words = ["explain", "gap", str(run), "--data", str(data.root.parent), "--out", str(tmp_path / "gap"), *change]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "gap").exists()


def test_a_model_folder_has_no_t_head(
    run: Path, data: DetectionDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["explain", "gap", str(run / "model"), "--data", str(data.root.parent), "--out", str(tmp_path / "gap")]
    assert main(words) == 2
    assert f"{run / 'model'} holds no run" in capsys.readouterr().err


def test_a_run_taken_over_has_no_checkpoint(
    run: Path, data: DetectionDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Studies copy finished runs without them."""
    shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    words = ["explain", "gap", str(tmp_path / "copy"), "--data", str(data.root.parent), "--out", str(tmp_path / "gap")]
    assert main(words) == 2
    assert "copy has no checkpoint, where the T-head is; if a study took the run over" in capsys.readouterr().err
