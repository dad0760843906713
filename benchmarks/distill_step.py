"""What distilling costs: a training step of a student alone and with each loss, and the teacher's share of it.

    python benchmarks/distill_step.py                          GFL, EfficientNet-Lite0 from Lite2, 256 x 320, batch 4
    python benchmarks/distill_step.py --family retinanet --device cuda

`ratio` is the student's step alone over that row's; the lines below the table give the inverse. `teacher` is what the
teacher does alone: its share of every row above it but the first.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import torch
from rows import Row, bars, parser, print_rows, rows_of, write
from train_step import example_batch

from mimicdet.build import build_model
from mimicdet.config import SETTINGS_OF, InferenceSettings, TrunkSettings, settings_from
from mimicdet.data.dataset import Category
from mimicdet.lab.bench import alternate
from mimicdet.tasks import build_task
from mimicdet.tasks.distill import LOSSES
from mimicdet.weights.folder import save_model

NAMES = tuple(str(k) for k in range(7))
OFF = dict.fromkeys(LOSSES, 0.0)
VARIANTS = {
    "+ RM": {"rank": 4.0},
    "+ PFI": {"imitation": 1.5},
    "+ RM + PFI": {"rank": 4.0, "imitation": 1.5},
    "+ FitNets": {"whole_map": 1.0},
    "+ PKD": {"correlation": 1.0},
    "+ soft labels": {"soft_labels": 1.0},
    "+ CrossKD": {"cross": 1.0},
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options)
    print_rows(rows)
    for row in rows[1:]:
        print(f"{row.model} / student alone: {row.median_ms / rows[0].median_ms:.3f}")
    times = [(r.median_ms, r.low_ms, r.high_ms) for r in rows]
    write(rows, options, lambda axes: bars(axes, [r.model for r in rows], times, "One step of a student"))


def measure(folder: Path, options: Any) -> list[Row]:
    height, width = options.size
    teacher = _settings(options.family, "tf_efficientnet_lite2", 128)
    torch.manual_seed(0)
    save_model(
        folder,
        build_model(teacher, len(NAMES)),
        model_settings=teacher.model_dump(mode="json"),
        inference=InferenceSettings().model_dump(mode="json"),
        categories=[Category(i, name) for i, name in enumerate(NAMES)],
    )
    batch = example_batch(options.batch, height, width, options.device, classes=len(NAMES))
    tasks = {"student alone": _task(options, None, {})}
    tasks |= {name: _task(options, folder, weights) for name, weights in VARIANTS.items()}
    cases: dict[str, Callable[[], object]] = {name: _step(task, batch) for name, task in tasks.items()}
    seen = tasks["+ RM"].teachers[0]
    cases["teacher"] = lambda: seen.dense_maps(batch.images, batch.sizes)
    title = f"{options.family} {height}x{width} batch {options.batch}"
    return rows_of(
        alternate(cases, rounds=options.rounds, device=options.device, title=title),
        "student alone",
        backbone="lite0",
        device=options.device,
        precision="float32",
        mode=f"train {options.family}",
        height=height,
        width=width,
        batch=options.batch,
    )


def _settings(family: str, backbone: str, channels: int) -> TrunkSettings:
    own: dict[str, Any] = {} if family == "mimicdet" else {"head_groups": 0 if family == "retinanet" else 32}
    return SETTINGS_OF[family].Model(
        family=family, backbone=backbone, weights="random", frozen_stages=3, pyramid_channels=channels, **own
    )  # type: ignore[arg-type]


def _task(options: Any, teacher: Path | None, weights: dict[str, float]) -> Any:
    settings: dict[str, Any] = {
        "task": "detect",
        "model": _settings(options.family, "tf_efficientnet_lite0", 96).model_dump(),
    }
    if teacher is not None:
        settings |= {"task": "distill", "distill": {"teachers": (str(teacher),), **OFF, **weights}}
    built = settings_from(settings)
    torch.manual_seed(0)
    task = build_task(built, class_names=NAMES)
    return task.to(options.device).to(memory_format=torch.channels_last).train()


def _step(task: Any, batch: Any) -> Callable[[], object]:
    """Forward, backward and update."""
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=1e-6, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        task(batch)["loss"].backward()
        optimizer.step()

    return run


def _options() -> argparse.Namespace:
    made = parser((__doc__ or "").partition("\n")[0], "distill_step")
    made.add_argument("--family", choices=("retinanet", "fcos", "atss", "gfl"), default="gfl")
    made.add_argument("--size", type=peers.size, default=(256, 320), metavar="HxW")
    made.add_argument("--batch", type=int, default=4)
    return made.parse_args()


if __name__ == "__main__":
    main()
