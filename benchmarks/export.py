"""Eager, compiled, ONNX Runtime, OpenVINO and torch.export files of one MimicDet, side by side, and how equal they are.

    python benchmarks/export.py                                ResNet-50, 800 x 1088, batch 1
    python benchmarks/export.py --backbone lite0 --size 416x544

All end with detections after suppression. `mimicdet` is eager as `Detector` runs it (batch norm folded, channels last),
`as trained` the same module without that, `same arithmetic` one matrix product after the other until as many
multiplications and additions are done as the network has in convolutions and linear layers: no float32 runtime that
convolves directly goes below it. `ratio` is eager MimicDet's time over that row's; the lines below the table give the
inverse. Differences are those of raw boxes and scores on a photograph (see `mimicdet export`).
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import torch
from rows import Row, bars, parser, print_rows, rows_of, write
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mimicdet.data.dataset import Category
from mimicdet.data.decode import read_image
from mimicdet.export.export import export_detector
from mimicdet.export.exported_file import SUFFIXES, load
from mimicdet.inference.decode import decode
from mimicdet.inference.detect import sizes_or_none
from mimicdet.inference.fold import fold_detector
from mimicdet.lab.bench import alternate

FORMATS = tuple(SUFFIXES)


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for backbone in options.backbone:
            model = _model(backbone)
            files = {format: Path(folder) / f"{backbone}-{format}{SUFFIXES[format]}" for format in options.format}
            for format, file in files.items():
                _export(model, file, format)
            for height, width in options.size:
                for batch in options.batch:
                    rows += measure(model, files, backbone, height, width, batch, options)
    print_rows(rows)
    for row in rows:
        if row.ratio and row.model != "mimicdet":
            print(
                f"{row.model} / eager, {row.backbone} {row.height}x{row.width} batch {row.batch}: {1 / row.ratio:.3f}"
            )
    labels = [f"{r.model} {r.backbone} {r.height}x{r.width} b{r.batch}" for r in rows]
    times = [(r.median_ms, r.low_ms, r.high_ms) for r in rows]
    write(rows, options, lambda axes: bars(axes, labels, times, "One prediction in each runtime"))


@torch.inference_mode()
def measure(
    model: Any, files: dict[str, Path], backbone: str, height: int, width: int, batch: int, options: Any
) -> list[Row]:
    images = (255 * peers.random_images(batch, height, width, "cpu")).to(torch.uint8)
    sizes = torch.tensor([[height, width]] * batch)
    fast = fold_detector(model).to(memory_format=torch.channels_last)
    cases: dict[str, Callable[[], object]] = {"mimicdet": _detects(fast, images, sizes)}
    cases["as trained"] = _detects(copy.deepcopy(model).to(memory_format=torch.contiguous_format), images, sizes)
    cases["same arithmetic"] = _multiplies(_flops(fast, images, sizes))
    if options.compiled:
        cases["compiled"] = _detects(torch.compile(fast, fullgraph=True), images, sizes)
    for format, file in files.items():
        run = load(file, format, trust=True)  # type: ignore[arg-type]
        name = "onnxruntime" if format == "onnx" else "torch.export" if format == "torch" else format
        cases[name] = lambda run=run: run(images.numpy(), sizes.numpy())  # type: ignore[misc]
    title = f"{backbone} {height}x{width} batch {batch}"
    return rows_of(
        alternate(cases, rounds=options.rounds, title=title),
        "mimicdet",
        backbone=backbone,
        device="cpu",
        precision="float32",
        mode="export",
        height=height,
        width=width,
        batch=batch,
    )


SIDE = 2048
"""Of the matrices whose product is a processor's best."""


def _flops(model: Any, images: torch.Tensor, sizes: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        _detects(model, images, sizes)()
    return int(counter.get_total_flops())


def _multiplies(flops: int) -> Callable[[], object]:
    whole, rest = divmod(flops, 2 * SIDE**3)
    a, b, c = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE), torch.empty(SIDE, SIDE)
    rows = round(SIDE * rest / (2 * SIDE**3))

    def run() -> None:
        for _ in range(whole):
            torch.mm(a, b, out=c)
        torch.mm(a[:rows], b, out=c[:rows])

    return run


def _detects(model: Any, images: torch.Tensor, sizes: torch.Tensor) -> Callable[[], object]:
    seen = sizes_or_none(images, sizes)
    return lambda: decode(model(images, seen), sizes, peers.INFERENCE)


def _model(backbone: str) -> Any:
    """With heads that differ from place to place, as trained ones do: parity on equal scores would prove nothing."""
    torch.manual_seed(0)
    model = peers.mimicdet(backbone).eval()
    for layer in (
        model.s_head.align,
        model.s_head.align_finest,
        model.s_head.class_features,
        model.s_head.box_features,
    ):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.normal_(model.refinement.objectness.weight, std=0.05)
    # Boxes within the image, as trained ones are: parity is judged in pixels
    nn.init.normal_(model.s_head.regressor.weight, std=0.001)
    return model.to(memory_format=torch.channels_last)


def _export(model: Any, file: Path, format: str) -> None:
    from matplotlib import cbook

    portrait = read_image(Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    inference = peers.INFERENCE.model_dump(mode="json")
    categories = [Category(k + 1, str(k)) for k in range(model.num_classes)]
    raw = file.with_name("raw" + file.name)
    for outputs, path in (("raw", raw), ("detections", file)):
        differences = export_detector(
            model,
            path,
            format=format,
            outputs=outputs,
            inference=inference,
            categories=categories,  # type: ignore[arg-type]
            photographs=[portrait],
        )
        if outputs == "raw":
            boxes, scores = (max(getattr(d, name) for d in differences) for name in ("boxes", "scores"))
            print(f"{file.name}: boxes differ by up to {boxes:.2g} px, scores by {scores:.2g}", flush=True)


def _options() -> argparse.Namespace:
    made = parser((__doc__ or "").partition("\n")[0], "export")
    made.add_argument("--backbone", nargs="+", choices=peers.BACKBONES, default=["resnet50"])
    made.add_argument("--size", nargs="+", type=peers.size, default=[(800, 1088)], metavar="HxW")
    made.add_argument("--batch", nargs="+", type=int, default=[1])
    made.add_argument("--format", nargs="+", choices=FORMATS, default=list(FORMATS))
    made.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True, help="torch.compile too")
    return made.parse_args()


if __name__ == "__main__":
    main()
