"""``mimicdet eval`` on a run's model gives validation's numbers to the bit, on real images."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mimicdet.cli import main
from mimicdet.data.splits import load_dataset
from mimicdet.engine.run_folder import read_metrics
from mimicdet.engine.train import train
from mimicdet.inference.coco_metrics import METRIC_NAMES, coco_metrics
from tests.data.small_sets import BCCD, needs_bccd
from tests.engine.toy import toy_settings

SIDE = 128
NAMES = [*METRIC_NAMES, "per_class_AP", "per_class_AP50", "images", "objects", "detections"]
pytestmark = needs_bccd


@pytest.mark.parametrize("batch_size", [1, 2])
def test_eval_gives_validations_numbers(tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every box and score too, which change with the last bit of a weight; numbers made of few of them may not.

    Batch norm learns, and a moving average of the weights ships.
    """
    seen: list[Any] = []

    def recorded(truth: Any, found: Any, **options: Any) -> Any:
        seen.append(found)
        return coco_metrics(truth, found, **options)

    monkeypatch.setattr("mimicdet.inference.dataset.coco_metrics", recorded)
    monkeypatch.setattr("mimicdet.engine.evaluate.draw_curves", lambda *_: None)  # it takes longer than the training
    settings = toy_settings(optim={"lr": 0.02, "lr_batch": 2}, epochs=2, batch_size=2)
    size = {"shorter_side": SIDE, "longer_side": SIDE * 4 // 3, "batch_size": batch_size, "score_threshold": 0.0}
    settings = settings.model_copy(
        update={
            "data": settings.data.model_copy(update={"shorter_side": (SIDE,), "longer_side": SIDE * 4 // 3}),
            "inference": settings.inference.model_copy(update=size),
        }
    )
    train_data, val_data = load_dataset(BCCD, "train"), load_dataset(BCCD, "val")
    train_data = dataclasses.replace(train_data, images=train_data.images[:16])
    result = train(settings=settings, train_data=train_data, val_data=val_data, out=tmp_path / "run")
    evaluations = [record for record in read_metrics(tmp_path / "run" / "metrics.jsonl") if record["kind"] == "eval"]
    found = {record["step"]: found for record, found in zip(evaluations, seen, strict=True)}
    for folder, validated in ((tmp_path / "run" / "model-last", result.last), (result.model, result.best)):
        assert validated is not None
        assert validated["AR100"] > 0, "numbers that say something"
        file = tmp_path / "numbers.json"
        assert main(["eval", str(folder), "--data", str(BCCD), "--split", "val", "--json", str(file)]) == 0
        numbers = json.loads(file.read_text())
        assert {name: numbers[name] for name in NAMES} == {name: validated[name] for name in NAMES}
        assert seen[-1] == found[validated["step"]]
