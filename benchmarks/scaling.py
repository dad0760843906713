"""How MimicDet's cost grows with image area, batch, classes, objects, and how fast images are read.

    python benchmarks/scaling.py                               Lite0 at moderate sizes, a few minutes on two cores
    python benchmarks/scaling.py --backbone resnet50 --device cuda

Every group of rows is measured in alternation; `ratio` is a row's time over that of the group's first row. `train`
rows are steps of the mimic task without the optimiser's update; `images` rows are the input pipeline alone, in
milliseconds an image: JPEG files of 3200 x 2400 pixels to a shorter side of 480, for evaluation (decoded in full) by so
many processes, and for training with and without `data.reduce_jpeg`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from PIL import Image
from rows import Row, bars, parser, print_rows, rows_of, write
from train_step import example_batch, mimic_task

from mimicdet.data.batch import Batch
from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord
from mimicdet.data.loader import EvalLoader, TrainData, TrainLoader
from mimicdet.data.transform import TrainTransform
from mimicdet.inference.decode import decode
from mimicdet.inference.fold import fold_detector
from mimicdet.lab.bench import Timing, alternate

AREAS = ((256, 320), (384, 480), (512, 640), (768, 960))
BATCHES = (1, 2, 4)
CLASSES = (3, 80, 1200)
OBJECTS = (0, 10, 300)
PHOTOGRAPHS = 24
TRANSFORM = TrainTransform(
    shorter_side=(480,),
    shorter_side_sampling="choice",
    longer_side=800,
    scale_jitter=(1.0, 1.0),
    horizontal_flip=0.5,
    vertical_flip=0.0,
    quarter_turn=0.0,
    color_jitter=0.0,
)


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    rows += _area_and_batch(options)
    rows += _classes(options)
    rows += _objects(options)
    rows += _images(options)
    print_rows(rows)
    labels = [f"{row.mode}: {row.model}" for row in rows]
    write(rows, options, lambda axes: bars(axes, labels, [(r.median_ms, r.low_ms, r.high_ms) for r in rows], "Scaling"))


def _area_and_batch(options: Any) -> list[Row]:
    model = _detector(options.backbone, options.device)
    found = _group(
        {f"{h}x{w}": _predicts(model, 1, h, w, options.device) for h, w in AREAS}, "detect, by area", options
    )
    rows = [replace(row, height=h, width=w) for row, (h, w) in zip(found, AREAS, strict=True)]
    cases = {f"batch {b}": _predicts(model, b, *AREAS[1], options.device) for b in BATCHES}
    return rows + [
        replace(row, batch=b) for row, b in zip(_group(cases, "detect, by batch", options), BATCHES, strict=True)
    ]


def _classes(options: Any) -> list[Row]:
    detect = {
        f"{k} classes": _predicts(_detector(options.backbone, options.device, k), 1, *AREAS[2], options.device)
        for k in CLASSES
    }
    train = {}
    for k in CLASSES:
        task = mimic_task(options.backbone, options.device, classes=k)
        train[f"{k} classes"] = _trains(task, example_batch(2, *AREAS[1], options.device, classes=min(CLASSES)))
    height, width = AREAS[2]
    found = [replace(row, height=height, width=width) for row in _group(detect, "detect, by classes", options)]
    return found + _group(train, "train, by classes", options)


def _objects(options: Any) -> list[Row]:
    task = mimic_task(options.backbone, options.device)
    cases = {
        f"{n} objects an image": _trains(task, example_batch(2, *AREAS[1], options.device, objects=n)) for n in OBJECTS
    }
    return _group(cases, "train, by objects", options)


def _images(options: Any) -> list[Row]:
    """Reading, decoding, resizing and batching of JPEG files alone."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = _photographs(Path(folder))
        repeats = max(3, options.rounds // 3)

        def evaluation(workers: int) -> Timing:
            loader = EvalLoader(dataset, shorter_side=480, longer_side=800, batch_size=2, workers=workers)
            return Timing(tuple(_milliseconds(iter(loader)) for _ in range(repeats)))

        def training(reduce_jpeg: bool) -> Timing:
            workers = max(options.workers)
            loader = TrainLoader(TrainData(dataset, TRANSFORM, 0, reduce_jpeg=reduce_jpeg), workers=workers)
            batches = [[i, i + 1] for i in range(0, PHOTOGRAPHS, 2)]
            return Timing(tuple(_milliseconds(loader.epoch(epoch, batches)) for epoch in range(repeats)))

        by_workers = {f"{workers} workers": evaluation(workers) for workers in options.workers}
        by_decoding = {"decoded in full": training(False), "reduced": training(True)}
        found = _rows(by_workers, "images, by workers", options) + _rows(by_decoding, "images, by decoding", options)
        return [replace(row, height=480, width=640, batch=2, backbone="none") for row in found]


def _milliseconds(batches: Iterator[Batch]) -> float:
    """An image, once the processes have started."""
    next(batches)
    start = time.perf_counter()
    count = sum(len(batch.images) for batch in batches)
    return 1000 * (time.perf_counter() - start) / count


def _photographs(folder: Path) -> DetectionDataset:
    """Large JPEG files with the detail of a photograph: noise of several sizes."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(PHOTOGRAPHS):
        layers = [rng.integers(0, 80, (2400 // s, 3200 // s, 3), dtype=np.uint8) for s in (100, 20, 4)]
        pixels = sum(np.asarray(Image.fromarray(layer).resize((3200, 2400))).astype(np.int64) for layer in layers)
        file = folder / f"{i}.jpg"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, quality=90)
        nothing = np.zeros(0, dtype=np.int64)
        records.append(
            ImageRecord(
                id=i,
                file=file,
                height=2400,
                width=3200,
                boxes=np.zeros((0, 4)),
                labels=nothing,
                crowd=nothing.astype(bool),
                areas=np.zeros(0),
            )
        )
    categories = (Category(1, "thing"),)
    return DetectionDataset(root=folder, split="val", format="coco", categories=categories, images=tuple(records))


def _detector(backbone: str, device: str, classes: int = peers.CLASSES) -> Any:
    model = peers.mimicdet(backbone, classes=classes).eval()
    return fold_detector(model).to(device).to(memory_format=torch.channels_last)


def _predicts(model: Any, batch: int, height: int, width: int, device: str) -> Callable[[], object]:
    images = peers.random_images(batch, height, width, device)
    sizes = torch.tensor([[height, width]] * batch, device=device)

    @torch.inference_mode()
    def run() -> object:
        return decode(model(images, sizes), sizes, peers.INFERENCE)

    return run


def _trains(task: Any, batch: Batch) -> Callable[[], object]:
    def run() -> None:
        task.zero_grad()
        task(batch)["loss"].backward()

    return run


def _group(cases: Mapping[str, Callable[[], object]], mode: str, options: Any) -> list[Row]:
    return _rows(alternate(cases, rounds=options.rounds, device=options.device, title=mode), mode, options)


def _rows(timings: Mapping[str, Timing], mode: str, options: Any) -> list[Row]:
    height, width = AREAS[1]
    rows = rows_of(
        timings,
        None,
        mode=mode,
        backbone=options.backbone,
        device=options.device,
        precision="float32",
        height=height,
        width=width,
        batch=2 if mode.startswith("train") else 1,
    )
    return [replace(row, ratio=round(row.median_ms / rows[0].median_ms, 3)) for row in rows]


def _options() -> argparse.Namespace:
    made = parser((__doc__ or "").partition("\n")[0], "scaling")
    made.add_argument("--backbone", choices=peers.BACKBONES, default="lite0")
    made.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    return made.parse_args()


if __name__ == "__main__":
    main()
