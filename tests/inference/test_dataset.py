"""Evaluation: from images to COCO's numbers, on one process and on two."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mimicdet.config import InferenceSettings
from mimicdet.data.batch import Batch
from mimicdet.data.dataset import DetectionDataset
from mimicdet.errors import UserError
from mimicdet.inference.coco_metrics import Metrics
from mimicdet.inference.dataset import FunctionRunner, detect_dataset, evaluate_runner, evaluation_mode
from mimicdet.inference.decode import Detections
from mimicdet.inference.fold import FoldedModel
from tests.fake_detector import FakeDetector, make_dataset

SIZE = {"shorter_side": 75, "longer_side": 133}


def runs(function: Callable[[Batch], list[Detections]]) -> FunctionRunner:
    return FunctionRunner(lambda batch, _: function(batch), torch.device("cpu"), 32)


def evaluate(model: FakeDetector, dataset: DetectionDataset, **options: Any) -> Metrics:
    """What validation does: in evaluation mode, with folded batch norm."""
    limits = {"limits": options.pop("limits")} if "limits" in options else {}
    with evaluation_mode(model):
        return evaluate_runner(FoldedModel(model), dataset, InferenceSettings(**options), **limits)


@pytest.fixture
def dataset(tmp_path: Path) -> DetectionDataset:
    return make_dataset(tmp_path)


def test_a_detector_that_knows_the_answers_scores_100(dataset: DetectionDataset):
    model = FakeDetector(dataset).train()
    model.frozen.eval()
    metrics = evaluate(model, dataset, **SIZE, batch_size=2, nms_iou=1.0)
    assert metrics["AP"] == pytest.approx(1)
    assert metrics["AR100"] == pytest.approx(1)
    assert (metrics.images, metrics.objects, metrics.detections) == (5, 16, 16)
    assert list(metrics.class_ap) == ["cat", "dog", "newt"]
    assert [shape[0] for shape in model.batches] == [2, 2, 1]
    assert model.training
    assert not model.frozen.training


def test_flips_evaluates_mirrored_views_too(dataset: DetectionDataset):
    model = FakeDetector(dataset)
    metrics = evaluate(model, dataset, **SIZE, batch_size=2, nms_iou=1.0, flips="all")
    assert len(model.batches) == 4 * 3
    assert metrics.detections == 4 * 16


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_results_are_in_original_pixels_with_the_data_sets_own_ids(dataset: DetectionDataset, batch_size: int):
    def detect(batch: Batch) -> list[Detections]:
        """The lower right quarter of each image, and one box that sticks out."""
        found = []
        for height, width in batch.sizes.tolist():
            boxes = torch.tensor([[width / 2, height / 2, width, height], [-5, 3, 2 * width, height + 1]])
            found.append(Detections(boxes, torch.tensor([0.75, 0.5]), torch.tensor([2, 0])))
        return found

    results = detect_dataset(runs(detect), dataset, InferenceSettings(**SIZE, batch_size=batch_size))
    assert [r["image_id"] for r in results] == [0, 0, 11, 11, 22, 22, 33, 33, 44, 44]
    assert [r["category_id"] for r in results] == [91, 7] * 5
    assert [r["score"] for r in results] == [0.75, 0.5] * 5
    for record, quarter, outside in zip(dataset.images, results[::2], results[1::2], strict=True):
        h, w = record.height, record.width
        np.testing.assert_allclose(quarter["bbox"], [w / 2, h / 2, w / 2, h / 2], rtol=1e-6)
        x, y, width, height = outside["bbox"]
        assert (x, width, y + height) == (0, w, h)
        assert y > 0
    json.dumps(results, allow_nan=False)


def test_anything_that_detects_can_be_evaluated(dataset: DetectionDataset):
    def nothing(batch: Batch) -> list[Detections]:
        empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        return [empty for _ in batch.image_ids]

    metrics = evaluate_runner(runs(nothing), dataset, InferenceSettings(**SIZE, batch_size=3))
    assert metrics["AP"] == 0
    assert metrics.detections == 0


def test_limits_on_detections(dataset: DetectionDataset):
    model = FakeDetector(dataset)
    assert evaluate(model, dataset, **SIZE, nms_iou=1.0, max_detections=1).detections == 4
    whole = evaluate(model, dataset, **SIZE, nms_iou=1.0)
    narrow = evaluate(model, dataset, **SIZE, nms_iou=1.0, limits=(1, 2, 4))
    assert whole["AR1"] == narrow["AR1"] < narrow["AR10"], "two objects of a class in one image"
    assert narrow["AR100"] == whole["AR100"]


def test_modes_come_back_after_an_error():
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.BatchNorm1d(1))).train()
    model[1][0].eval()

    def interrupted() -> None:
        with evaluation_mode(model):
            assert not any(module.training for module in model.modules())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [module.training for module in model.modules()] == [True, True, True, False]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("x"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_lack_of_memory_says_what_to_change(dataset: DetectionDataset, error: Exception):
    class Greedy(FakeDetector):
        def forward(self, images: Tensor, sizes: Tensor | None = None, **_: object) -> object:
            raise error

    with pytest.raises(UserError, match=r"batch of 2 image\(s\) padded to 128 x 128 pixels: lower the batch size"):
        evaluate(Greedy(dataset), dataset, **SIZE, batch_size=2)


def test_other_errors_stay_what_they_are(dataset: DetectionDataset):
    class Broken(FakeDetector):
        def forward(self, images: Tensor, sizes: Tensor | None = None, **_: object) -> object:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        evaluate(Broken(dataset), dataset, **SIZE)


def _process(rank: int, folder: Path) -> None:
    """Of two: evaluates all images, then one image alone (the second process has none), then a missing file."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    dataset = make_dataset(folder / str(rank))
    model = FakeDetector(dataset)
    results = {"all": evaluate(model, dataset, **SIZE, nms_iou=1.0).to_json(), "batches": len(model.batches)}
    results["one"] = evaluate(model, replace(dataset, images=dataset.images[:1]), **SIZE, nms_iou=1.0).to_json()
    dataset.images[1].file.unlink()  # read by the second process
    try:
        evaluate(model, dataset, **SIZE)
    except UserError as error:
        results["error"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def test_two_processes_share_the_images_and_agree(tmp_path: Path):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    torch.multiprocessing.spawn(_process, args=(tmp_path,), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert (first.pop("batches"), second.pop("batches")) == (3, 2)
    assert first == second
    assert "image1.png" in first["error"], "the first process hears of the file that the second could not read"
    dataset = make_dataset(tmp_path)
    assert first["all"] == evaluate(FakeDetector(dataset), dataset, **SIZE, nms_iou=1.0).to_json()
    assert first["one"]["images"] == 1
    assert first["one"]["AP"] == pytest.approx(1)
