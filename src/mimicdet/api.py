"""Trains, evaluates and exports from Python: ``from mimicdet import train, evaluate, export_model``."""

from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mimicdet.arguments import checked
from mimicdet.build import LoadedModel, load_model
from mimicdet.config import InferenceSettings, Settings
from mimicdet.data.batch import pad_to_batch
from mimicdet.data.dataset import DetectionDataset, match_classes
from mimicdet.data.decode import read_image
from mimicdet.data.sound import require_sound
from mimicdet.data.split_names import validation_split
from mimicdet.data.splits import available_splits, load_dataset
from mimicdet.data.tiles import tiles_of
from mimicdet.data.transform import resize_for_inference
from mimicdet.engine.train import TrainResult
from mimicdet.engine.train import train as train_on
from mimicdet.errors import UserError
from mimicdet.export.export import Difference, export_detector, require_one_stage, require_place
from mimicdet.export.exported_file import Format, Outputs, Precision
from mimicdet.inference.coco_metrics import COCO_LIMITS, Metrics
from mimicdet.inference.dataset import evaluate_runner
from mimicdet.models.detector import DetectionModel
from mimicdet.predict import Detector
from mimicdet.predict.detector import ImageLike, each_image, to_pixels

CALIBRATION_IMAGES = 64


@checked()
def train(
    *,
    settings: Settings,
    train_data: DetectionDataset | str | Path,
    val_data: DetectionDataset | None = None,
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
) -> TrainResult:
    """Trains a detector and returns what the run left, with its paths and numbers.

    A script calls it below ``if __name__ == "__main__":``, because the processes that load images import the script.

    ```python
    from mimicdet import load_settings, train

    size = {"model.backbone": "test_resnet", "model.weights": "random", "data.shorter_side": [64], "data.workers": 0}
    settings = load_settings("small_gfl", {"train.epochs": 1, "train.batch_size": 2, **size})
    result = train(settings=settings, train_data="cells", out="runs/from_python")
    print(result.model, result.best["AP"], result.steps)
    ```

    Args:
        settings: what ``load_settings`` returns.
        train_data: a data set, or the path of one, whose splits ``train`` and ``val`` (or ``valid``) are read.
        val_data: the best weights are those with the highest AP on it; without one the last are kept.
        out: the run folder, which gets settings, metrics, checkpoints, the model, curves and pictures.
        resume: continues the run in ``out``, exactly as if it had never stopped.
        overwrite: replaces the run in ``out``.

    Returns:
        The run folder and the model's, the records of the best and the last evaluation, steps and seconds.

    Raises:
        UserError: for whatever the user can mend, such as data that do not fit, or a folder that holds a run.
        TrainingStopped: a KeyboardInterrupt, after Ctrl-C or SIGTERM and a checkpoint.
    """
    if not isinstance(train_data, DetectionDataset):
        train_data = Path(train_data)
        reading = settings.data.model_dump(include={"max_faulty_boxes", "voc_one_based"})
        name = validation_split(available_splits(train_data))
        if val_data is None and name is not None:
            val_data = load_dataset(train_data, name, **reading)
        train_data = load_dataset(train_data, "train", **reading)
    for dataset in filter(None, (train_data, val_data)):
        require_sound(dataset)
    return train_on(
        settings=settings, train_data=train_data, val_data=val_data, out=Path(out), resume=resume, overwrite=overwrite
    )


@checked()
def evaluate(
    detector: Detector | str | Path,
    dataset: DetectionDataset | str | Path,
    *,
    tile: int | None = None,
    overlap: float = 0.25,
    limit: int | None = None,
    inference: InferenceSettings | None = None,
    progress: bool = False,
    trust: bool = False,
) -> Metrics:
    """Measures a detector on a data set with COCO's numbers; classes are matched by name.

    ```python
    from mimicdet import Detector, evaluate, load_dataset

    detector = Detector.from_pretrained("runs/cells/model")
    metrics = evaluate(detector, load_dataset("cells", "test"))
    print(metrics["AP"], metrics["AP50"], metrics.class_ap)
    ```

    Args:
        detector: a detector, or the model folder or exported file of one.
        dataset: a data set, or the path of one, whose split ``val`` is read.
        tile: cuts each image into squares of this side in pixels, 32 or more, for images much larger than the model's.
        overlap: share of a tile's side that it has in common with its neighbour, 0 to 0.9.
        limit: so many detections of an image are kept and count; 100 by default, which is COCO's rule.
        inference: sizes and thresholds to detect with, instead of the detector's own and of ``limit`` for what is kept.
        progress: shows a bar.
        trust: read a .pt2 file although it may hold code, as for ``Detector.from_pretrained``.

    Returns:
        The twelve numbers, the AP of each class, and counts.

    Raises:
        UserError: a class that the model does not know, an image that cannot be read, an option out of range.
    """
    if limit is not None and limit <= COCO_LIMITS[1]:
        raise UserError(f"limit must be more than {COCO_LIMITS[1]}, not {limit}")
    if limit is not None and limit > 1_000_000:
        raise UserError(f"limit must be a million at most, not {limit}")
    tiles = tiles_of(tile, overlap)
    if not isinstance(dataset, DetectionDataset):
        dataset = load_dataset(dataset, "val")
    require_sound(dataset)
    if not isinstance(detector, Detector):
        detector = Detector.from_pretrained(detector, trust=trust)
    if inference is None:
        inference = detector.inference_with(max_detections=limit)
    limits = (*COCO_LIMITS[:2], limit or COCO_LIMITS[2])
    dataset = match_classes(dataset, detector.categories)
    return evaluate_runner(detector.runner, dataset, inference, tiles=tiles, progress=progress, limits=limits)


@checked(but=("photographs",))
def export_model(
    model: LoadedModel | Detector | str | Path,
    file: str | Path,
    *,
    format: Format = "onnx",
    outputs: Outputs = "detections",
    precision: Precision = "float32",
    photographs: ImageLike | Iterable[ImageLike] = (),
    calibration: DetectionDataset | None = None,
    inference: InferenceSettings | None = None,
) -> list[Difference]:
    """Writes a model as one file of another runtime, once its results there are known to be the same.

    ```python
    from mimicdet import Detector, export_model

    differences = export_model("runs/cells/model", "cells.pt2", format="torch", photographs=["photo.jpg"])
    print(max(found.scores for found in differences))
    print(Detector.from_pretrained("cells.pt2", trust=True)("photo.jpg")[0]["names"])
    ```

    Args:
        model: a model folder, or what ``load_model`` or ``Detector.from_pretrained`` made of one.
        file: its name ends with .onnx, .xml (OpenVINO) or .pt2 (torch). A description as JSON is written beside it,
            and for ONNX a program that runs it without torch.
        format: of the file. ONNX and OpenVINO need the packages of the extra ``export``.
        outputs: detections after suppression, or boxes and scores before it (``raw``).
        precision: of an ONNX file. Below float32 the differences are returned, not judged.
        photographs: file and model are compared on these; by default on the portrait that matplotlib brings.
        calibration: a data set whose images tell the ranges of values, which int8 needs.
        inference: sizes and thresholds that the file is made with, instead of the model's own.

    Returns:
        The differences between file and model at each size of image.

    Raises:
        UserError: differences that are too large, a model that cannot be exported, a place that cannot be written to.
    """
    file = Path(file)
    require_place(file, format)
    if precision != "float32" and format != "onnx":
        raise UserError(f"precision {precision} needs format onnx, not {format}")
    if precision == "int8" and calibration is None:
        raise UserError("precision int8 needs a data set for its calibration")
    name = "this model"
    if isinstance(model, str | PathLike):
        name, model = str(model), load_model(model)
    network = model.model
    if not isinstance(network, DetectionModel):
        raise UserError(f"{network.file} is an exported model already; export the model folder")
    require_one_stage(network, name)
    if calibration is not None:
        require_sound(calibration)
    # At positions in any case: the detections are the same, and the dense form is what is slow
    inference = (inference or model.inference).model_copy(update={"dense": False})
    pixels = [to_pixels(image, name=f"photograph {number}") for number, image in enumerate(each_image(photographs))]
    batches = None if calibration is None else _resized(calibration, inference, network.divisor)
    form: dict[str, Any] = {"format": format, "outputs": outputs, "precision": precision}
    about: dict[str, Any] = {"inference": inference.model_dump(mode="json"), "categories": model.categories}
    photographs, calibrating = pixels or [_portrait()], batches if precision == "int8" else None
    return export_detector(network, file, **form, **about, photographs=photographs, calibration=calibrating)


def _portrait() -> np.ndarray:
    from matplotlib import cbook

    return read_image(Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))


def _resized(dataset: DetectionDataset, inference: InferenceSettings, divisor: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Some images of a data set one by one, as they are for prediction, each with its size."""
    step = -(-len(dataset) // CALIBRATION_IMAGES)
    for record in dataset.images[::step]:
        image = resize_for_inference(read_image(record.file), inference.shorter_side, inference.longer_side)
        batch = pad_to_batch([image], divisor)
        yield batch.images, batch.sizes
