"""Pictures of a finished run: its curves, and what its model finds in some images."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np

from mimicdet.build import load_model
from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.decode import read_image
from mimicdet.engine.processes import on_main
from mimicdet.engine.start import Run
from mimicdet.files import replace_file
from mimicdet.inference.dataset import detect_dataset
from mimicdet.inference.folded import FoldedModel
from mimicdet.report.curves import draw_curves
from mimicdet.report.draw import draw_boxes

SHOWN = 0.3
"""Detections with at least this score are drawn."""


def draw_run(run: Run) -> None:
    """Draws curves.png, and ``train.pictures`` images of the validation split into pictures/, with what ``model/``
    finds and with the objects themselves; of the training split where there is no other. Every process must call this.
    """
    folder, number = run.folder, run.settings.train.pictures
    on_main(run.accelerator, lambda: draw_curves(folder.metrics_file, folder.curves))
    if number:
        chosen = _some_images(run.val_data or run.train_data, number)
        found = _detections(run, chosen)
        on_main(run.accelerator, lambda: _draw(run, chosen, found))


def _some_images(dataset: DetectionDataset, number: int) -> DetectionDataset:
    """``number`` images spread evenly over the data set."""
    n = len(dataset)
    chosen = sorted({i * n // number for i in range(number)})
    return replace(dataset, images=tuple(dataset.images[i] for i in chosen))


def _detections(run: Run, dataset: DetectionDataset) -> list[dict]:
    """COCO results of the model that is kept."""
    loaded = load_model(run.folder.model, run.accelerator.device)
    threshold = max(SHOWN, loaded.inference.score_threshold)
    inference = loaded.inference.model_copy(update={"score_threshold": threshold})
    return detect_dataset(FoldedModel(loaded.model), dataset, inference)


def _draw(run: Run, dataset: DetectionDataset, found: list[dict]) -> None:
    label = {category.id: i for i, category in enumerate(dataset.categories)}
    run.folder.pictures.mkdir(exist_ok=True)
    for number, record in enumerate(dataset.images, start=1):
        results = [result for result in found if result["image_id"] == record.id]
        boxes = np.array([result["bbox"] for result in results]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # x y width height -> x1 y1 x2 y2
        picture = draw_boxes(
            read_image(record.file),
            boxes,
            np.array([label[result["category_id"]] for result in results], dtype=np.int64),
            class_names=dataset.class_names,
            scores=np.array([result["score"] for result in results]),
            truth_boxes=record.boxes[~record.crowd],
            truth_labels=record.labels[~record.crowd],
        )
        buffer = io.BytesIO()
        picture.save(buffer, format="png")
        replace_file(run.folder.pictures / f"{number:02}-{record.file.stem}.png", buffer.getvalue())
