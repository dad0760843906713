"""Finds what the S-head loses against the T-head: the parts of each with those of the other, at the same positions.

A score is made of two parts: that there is an object at all, and which class it has if there is one.
"""

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mimicdet.config import InferenceSettings
from mimicdet.data.batch import Batch
from mimicdet.data.dataset import Category, DetectionDataset, match_classes
from mimicdet.errors import one_line
from mimicdet.files import make_folder, replace_file
from mimicdet.inference.coco_metrics import Metrics, coco_metrics
from mimicdet.inference.dataset import FunctionRunner, detect_dataset, evaluation_mode
from mimicdet.inference.decode import Detections, decode
from mimicdet.lab.explain.report import csv_text
from mimicdet.models.detector import Predictions
from mimicdet.models.device import move_to
from mimicdet.report.table import points, table
from mimicdet.tasks.build import MimicRun
from mimicdet.tasks.mimic import BothHeads

S_HEAD, T_HEAD, ADJUSTED = "S-head", "T-head", "adjusted"


class Mixture(NamedTuple):
    """Names the head that each part comes from."""

    foreground: str
    classes: str
    boxes: str  # ADJUSTED: neither


MIXTURES = [
    Mixture(foreground, classes, boxes)
    for foreground, classes, boxes in product((S_HEAD, T_HEAD), (S_HEAD, T_HEAD), (ADJUSTED, S_HEAD, T_HEAD))
    if foreground == classes or boxes != ADJUSTED
]
"""All that are measured; adjusted boxes go with scores of one head alone."""


def explain_gap(run: MimicRun, dataset: DetectionDataset, out: Path, *, device: str | None = None) -> str:
    """Writes gap.md and gap.csv; returns the table and what the S-head keeps, as text.

    The device is one as ``cpu`` or ``cuda:1``; None is the first CUDA GPU where there is one, else the CPU. UserError
    as :func:`measure_mixtures`, and where the folder cannot be written.
    """
    where, names = move_to(run.task, device), ("AP", "AP50", "AP75")
    make_folder(out)
    measured = measure_mixtures(run, dataset, device=where)
    header = [*Mixture._fields, *names]
    rows = [[*mixture, *(points(m[name]) for name in names)] for mixture, m in measured.items()]
    ours, theirs = (measured[Mixture(head, head, head)]["AP"] for head in (S_HEAD, T_HEAD))
    kept = f"The S-head keeps {ours / theirs:.0%} of the T-head's AP." if theirs > 0 else "The T-head finds nothing."
    about = (
        f"{dataset.split} of {one_line(dataset.root.name)}: {len(dataset)} images. "
        f"Both heads at the same positions, the best by "
        "refinement score, with the same suppression; foreground: that there is an object, classes: which one if there "
        "is, adjusted: the boxes of the refinement module, which both move."
    )
    markdown = f"## S-head and T-head\n\n{about}\n\n{table(header, rows, style='markdown')}\n\n{kept}\n"
    replace_file(out / "gap.md", markdown.encode())
    replace_file(out / "gap.csv", csv_text([header, *rows]).encode())
    return f"{table(header, rows)}\n\n{kept}"


def measure_mixtures(run: MimicRun, dataset: DetectionDataset, *, device: torch.device) -> dict[Mixture, Metrics]:
    """Returns COCO's numbers of each mixture, with the run's settings ``inference``; the task is on ``device``.

    It raises UserError for a class that the run does not know and an image that cannot be read.
    """
    task, inference = run.task, run.settings.inference
    dataset = match_classes(dataset, run.categories)
    classes = len(dataset.categories)

    def detect_each(batch: Batch, inference: InferenceSettings) -> list[Detections]:
        """Returns the finds of every mixture; the labels of the n-th begin at n times the number of classes."""
        heads = task.both_heads(batch.images, batch.sizes, top=inference.positions)
        found = [decode(_mix(heads, mixture), batch.sizes, inference) for mixture in MIXTURES]
        numbered = [[d._replace(labels=d.labels + n * classes) for d in each] for n, each in enumerate(found)]
        return [Detections(*map(torch.cat, zip(*row, strict=True))) for row in zip(*numbered, strict=True)]

    numbered = tuple(Category(id=number, name=str(number)) for number in range(len(MIXTURES) * classes))
    runner, pooled = FunctionRunner(detect_each, device, task.detector.divisor), replace(dataset, categories=numbered)
    shown = sys.stderr.isatty()
    with evaluation_mode(task):
        rows = detect_dataset(runner, pooled, inference, workers=run.settings.data.workers, progress=shown)
    found: list[list[dict]] = [[] for _ in MIXTURES]
    for row in rows:
        mixture, label = divmod(row["category_id"], classes)
        found[mixture].append(row | {"category_id": dataset.categories[label].id})
    truth = dataset.to_coco()
    return {mixture: coco_metrics(truth, rows) for mixture, rows in zip(MIXTURES, found, strict=True)}


def _mix(heads: BothHeads, mixture: Mixture) -> Predictions:
    head = {S_HEAD: heads.student, T_HEAD: heads.teacher}
    logits = head[mixture.classes].logits
    if mixture.foreground != mixture.classes:
        logits = mix_scores(head[mixture.foreground].logits, logits)
    deltas = head[S_HEAD if mixture.boxes == ADJUSTED else mixture.boxes].deltas
    found = heads.refined.predictions(heads.positions, logits, deltas)
    if mixture.boxes == ADJUSTED:
        index = heads.positions[..., None].expand(-1, -1, 4)
        found = found._replace(boxes=heads.refined.adjusted_boxes.gather(1, index))
    return found


def mix_scores(foreground: Tensor, classes: Tensor) -> Tensor:
    """Returns log-probabilities with the background of one head and the classes, given an object, of another.

    Both are logits (..., K+1), the last of the background.
    """
    own = foreground.log_softmax(-1)
    there = own[..., :-1].logsumexp(-1, keepdim=True)
    return torch.cat([there + classes[..., :-1].log_softmax(-1), own[..., -1:]], dim=-1)
