"""What the S-head loses against the T-head: the parts of each with the parts of the other, at the same positions.

A score is made of two parts: that there is an object at all, and which class it has if there is one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from mimicdet.data.categories import match_classes
from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.loader import eval_loader
from mimicdet.files import make_folder, replace_file
from mimicdet.inference.coco_metrics import Metrics, coco_metrics
from mimicdet.inference.decode import decode
from mimicdet.inference.device import move_to
from mimicdet.inference.evaluate import coco_results, evaluation_mode
from mimicdet.models.dense import DenseOutput
from mimicdet.report.table import table
from mimicdet.tasks.mimic_run import MimicRun

S_HEAD, T_HEAD, ADJUSTED = "S-head", "T-head", "adjusted"


class Mixture(NamedTuple):
    """Which head each part comes from."""

    foreground: str
    classes: str
    boxes: str  # ADJUSTED: neither


def explain_gap(
    run: MimicRun, dataset: DetectionDataset, out: Path, *, device: str | None = None, progress: bool = False
) -> str:
    """Writes gap.md and gap.csv; returns the table and what the S-head keeps, as text.

    Args:
        device: such as ``cpu`` or ``cuda:1``; None is the first CUDA GPU where there is one, else the CPU.

    Raises:
        UserError: what ``measure_mixtures`` raises, and a folder that cannot be written.
    """
    where = move_to(run.task, device)
    make_folder(out)
    measured = measure_mixtures(run, dataset, device=where, progress=progress)
    names = ("AP", "AP50", "AP75")
    header = [*Mixture._fields, *names]
    rows = [[*mixture, *(f"{100 * m.to_json()[name]:.1f}" for name in names)] for mixture, m in measured.items()]
    ours, theirs = (measured[Mixture(head, head, head)].to_json()["AP"] for head in (S_HEAD, T_HEAD))
    kept = f"The S-head keeps {ours / theirs:.0%} of the T-head's AP." if theirs > 0 else "The T-head finds nothing."
    about = (
        f"{dataset.split} of {dataset.root.name}: {len(dataset)} images. Both heads at the same positions, the best by "
        "refinement score, with the same suppression; foreground: that there is an object, classes: which one if there "
        "is, adjusted: the boxes of the refinement module, which both move."
    )
    markdown = f"## S-head and T-head\n\n{about}\n\n{table(header, rows, style='markdown')}\n\n{kept}\n"
    replace_file(out / "gap.md", markdown.encode())
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    replace_file(out / "gap.csv", text.getvalue().encode())
    return f"{table(header, rows)}\n\n{kept}"


def measure_mixtures(
    run: MimicRun, dataset: DetectionDataset, *, device: torch.device, progress: bool = False
) -> dict[Mixture, Metrics]:
    """COCO's numbers of each mixture, with the settings of the run's section ``inference``; the task is on ``device``.

    Raises:
        UserError: a class the run does not know; an image that cannot be read.
    """
    inference = run.settings.inference
    dataset = match_classes(dataset, run.categories)
    category_ids = [category.id for category in dataset.categories]
    task = run.task
    found: dict[Mixture, list[dict]] = {}
    loader = eval_loader(
        dataset, shorter_side=inference.shorter_side, longer_side=inference.longer_side,
        batch_size=inference.batch_size, workers=run.settings.data.workers, pin_memory=device.type == "cuda",
        divisor=task.detector.divisor,
    )  # fmt: skip
    with evaluation_mode(task), torch.inference_mode():
        for batch in tqdm(loader, desc="gap", unit="batch", leave=False, disable=not progress):
            moved = batch.to(device)
            heads = task.outputs(moved.images, moved.sizes, top=inference.positions)
            for mixture, output in _mixtures(*heads):
                images = decode(
                    output, moved.sizes, score_threshold=inference.score_threshold, nms_iou=inference.nms_iou,
                    max_detections=inference.max_detections, top=inference.positions,
                )  # fmt: skip
                for rows in coco_results(batch, images, category_ids).values():
                    found.setdefault(mixture, []).extend(rows)
    truth = dataset.to_coco()
    return {mixture: coco_metrics(truth, rows) for mixture, rows in found.items()}


def _mixtures(student: DenseOutput, teacher: DenseOutput) -> Iterator[tuple[Mixture, DenseOutput]]:
    adjusted = student.adjusted_boxes.gather(1, student.positions[..., None].expand(-1, -1, 4))
    logits = {S_HEAD: student.logits, T_HEAD: teacher.logits}
    boxes = {ADJUSTED: adjusted, S_HEAD: student.boxes, T_HEAD: teacher.boxes}
    for foreground, classes, place in product(logits, logits, boxes):
        own = foreground == classes
        scores = logits[classes] if own else mix_scores(logits[foreground], logits[classes])
        if own or place != ADJUSTED:
            yield Mixture(foreground, classes, place), student._replace(logits=scores, boxes=boxes[place])


def mix_scores(foreground: Tensor, classes: Tensor) -> Tensor:
    """Log-probabilities with the background of one head and the classes, given an object, of another.

    Args:
        foreground, classes: logits (..., K+1), the last of the background.
    """
    own = foreground.log_softmax(-1)
    there = own[..., :-1].logsumexp(-1, keepdim=True)
    return torch.cat([there + classes[..., :-1].log_softmax(-1), own[..., -1:]], dim=-1)
