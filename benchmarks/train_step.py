"""How long one training step takes and how much memory: MimicDet with its T-head against torchvision's detectors.

    python benchmarks/train_step.py                            ResNet-50, 512 x 640, batch 2
    python benchmarks/train_step.py --backbone lite0 --batch 2 4 --precision bf16 --device cuda

A step is forward, backward and the optimiser's update (SGD, fused), on random images with ten objects each. Peak memory
is measured in a process of its own for each model: on the CPU what the process takes at most above what it had before
the first step, on a GPU what PyTorch allocates. `separate teacher` is MimicDet whose T-head has a backbone and
pyramid of its own (Table 5 of the paper).
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import peers
import torch
from rows import Row, bars, parser, print_rows, rows_of, write
from torch import Tensor, nn

from mimicdet.config import MimicDetSettings, TeacherSettings
from mimicdet.data.batch import Batch, Sample, collate
from mimicdet.lab.bench import STEP_STAGES, alternate, step_stages
from mimicdet.tasks import build_task

PRECISION = {"float32": torch.float32, "bf16": torch.bfloat16}
OBJECTS = 10
SEPARATE = "separate teacher"


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for backbone in options.backbone:
        for height, width in options.size:
            for batch in options.batch:
                for precision in options.precision:
                    rows += measure(backbone, height, width, batch, precision, options)
    print_rows(rows)
    print("\nratio: MimicDet's time over that row's; for MimicDet's stages, the share of the whole")
    shown = [row for row in rows if ":" not in row.model]
    labels = [f"{r.model} {r.backbone} {r.height}x{r.width} b{r.batch} {r.precision}" for r in shown]
    times = [(r.median_ms, r.low_ms, r.high_ms) for r in shown]
    write(rows, options, lambda axes: bars(axes, labels, times, "One training step"))


def measure(backbone: str, height: int, width: int, batch: int, precision: str, options: Any) -> list[Row]:
    setting = {"device": options.device, "precision": precision, "height": height, "width": width, "batch": batch}
    names = ["mimicdet", SEPARATE, *options.peer]
    cases = {name: step(name, backbone, **setting) for name in names}
    title = f"{backbone} {height}x{width} batch {batch} {precision}"
    timings = alternate(cases, rounds=options.rounds, device=options.device, title=title)
    shared = setting | {"backbone": backbone, "mode": "train"}
    rows = rows_of(timings, "mimicdet", **shared)
    if not options.no_memory:
        peaks = {name: peak_memory(name, backbone, threads=options.threads, **setting) for name in names}
        rows = [replace(row, peak_mib=round(peaks[row.model], 1)) for row in rows]
    task, example = mimic_task(backbone, options.device), example_batch(batch, height, width, options.device)
    with torch.autocast(options.device, PRECISION[precision], enabled=precision != "float32"):
        stage_times = step_stages(task, example, _optimizer(task), rounds=options.rounds, title=f"{title}, stages")
    total = sum(stage_times[name].median for name in STEP_STAGES)
    stages = rows_of({f"mimicdet:{name}": timing for name, timing in stage_times.items()}, None, **shared)
    return rows + [replace(row, ratio=round(row.median_ms / total, 4)) for row in stages]


def step(
    name: str, backbone: str, *, device: str, precision: str, height: int, width: int, batch: int
) -> Callable[[], object]:
    """One training step of a detector on one batch, as a function."""
    example = example_batch(batch, height, width, device)
    ours = name in ("mimicdet", SEPARATE)
    if ours:
        model: nn.Module = mimic_task(backbone, device, teacher="separate" if name == SEPARATE else "shared")
        arguments: tuple[Any, ...] = (example,)
    else:
        model = peers.peer(name, backbone).to(device).to(memory_format=torch.channels_last).train()
        targets = [
            {"boxes": boxes, "labels": labels + 1} for boxes, labels in zip(example.boxes, example.labels, strict=True)
        ]
        arguments = (list(example.images.float() / 255), targets)
    optimizer = _optimizer(model)

    def run() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device, PRECISION[precision], enabled=precision != "float32"):
            losses = model(*arguments)
            loss = losses["loss"] if ours else sum(losses.values())
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def mimic_task(
    backbone: str, device: str, *, classes: int = peers.CLASSES, teacher: Literal["shared", "separate"] = "shared"
) -> Any:
    """MimicDet as the paper trains it: full width, T-head on P2..P6, first two stages and batch norm frozen."""
    model = MimicDetSettings.Model(
        backbone=peers.BACKBONES[backbone], weights="random", frozen_stages=2, freeze_batch_norm=True
    )
    torch.manual_seed(0)
    settings = MimicDetSettings(model=model, teacher=TeacherSettings(backbone=teacher))
    task = build_task(settings, class_names=list(map(str, range(classes))), pretrained=False)
    return task.to(device).to(memory_format=torch.channels_last).train()


def example_batch(
    batch: int, height: int, width: int, device: str, *, objects: int = OBJECTS, classes: int = peers.CLASSES
) -> Batch:
    """Random images that fill the canvas, each with so many objects of an eighth to a half of the side."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for i in range(batch):
        side = (0.125 + 0.375 * torch.rand(objects, 2, generator=generator)) * min(height, width)
        corner = torch.rand(objects, 2, generator=generator) * (torch.tensor([width, height]) - side)
        samples.append(
            Sample(
                image=torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8),
                boxes=torch.cat([corner, corner + side], dim=1),
                labels=torch.randint(0, classes, (objects,), generator=generator),
                crowd=torch.zeros(objects, dtype=torch.bool),
                image_id=i,
                file="",
                original_size=(height, width),
                seed=i,
            )
        )
    return collate(samples, divisor=32).to(torch.device(device))


def peak_memory(name: str, backbone: str, *, threads: int, device: str, **setting: Any) -> float:
    """MiB that three steps take at most, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_memory, (name, backbone, threads, device, setting))


def _peak_memory(name: str, backbone: str, threads: int, device: str, setting: dict[str, Any]) -> float:
    torch.set_num_threads(threads)
    run = step(name, backbone, device=device, **setting)
    before = _resident()
    for _ in range(3):
        run()
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10) - before


def _resident() -> float:
    """MiB that the process has now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux: the peak so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return pages * resource.getpagesize() / 2**20


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9, fused=True)


def _options() -> argparse.Namespace:
    made = parser((__doc__ or "").partition("\n")[0], "train_step")
    made.add_argument("--backbone", nargs="+", choices=peers.BACKBONES, default=["resnet50"])
    made.add_argument("--size", nargs="+", type=peers.size, default=[(512, 640)], metavar="HxW")
    made.add_argument("--batch", nargs="+", type=int, default=[2])
    made.add_argument("--precision", nargs="+", choices=PRECISION, default=["float32"])
    made.add_argument("--peer", nargs="*", choices=peers.PEERS, default=list(peers.PEERS))
    made.add_argument("--no-memory", action="store_true", help="leave out the measurement of memory")
    return made.parse_args()


if __name__ == "__main__":
    main()
