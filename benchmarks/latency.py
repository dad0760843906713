"""How long one prediction takes: MimicDet, torchvision's detectors, and backbone + pyramid alone as the floor.

    python benchmarks/latency.py                                   ResNet-50, 800 x 1088, batch 1; eager and treated
    python benchmarks/latency.py --backbone lite0 --size 400x544 600x800 --batch 1 8
    python benchmarks/latency.py --mode compiled --precision bf16

Modes: `eager` is each as it comes (MimicDet as `Detector` runs it: batch norm folded, channels last). `treated` gives
the others the same: batch norm folded, channels last. `compiled` is `treated` under torch.compile. Images are random,
models untrained and silent (see peers.py); all end with their own post-processing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peers
import torch
from rows import Row, bars, parser, print_rows, rows_of, write
from torch import Tensor, nn

from mimicdet.inference.decode import decode
from mimicdet.inference.detect import sizes_or_none
from mimicdet.inference.fold import fold_batch_norm, fold_detector, settle_padding
from mimicdet.lab.bench import STAGES, alternate, stages
from mimicdet.models.detector import DetectionModel

MODES = ("eager", "treated", "compiled")
PRECISION = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for backbone in options.backbone:
        for height, width in options.size:
            for batch in options.batch:
                for precision in options.precision:
                    for mode in options.mode:
                        rows += measure(backbone, height, width, batch, precision, mode, options)
    print_rows(rows)
    print("\nratio: MimicDet's time over that row's; for MimicDet's stages, the share of the whole")
    shown = [row for row in rows if ":" not in row.model]
    labels = [f"{r.model} {r.backbone} {r.height}x{r.width} b{r.batch} {r.precision} {r.mode}" for r in shown]
    times = [(r.median_ms, r.low_ms, r.high_ms) for r in shown]
    write(rows, options, lambda axes: bars(axes, labels, times, "One prediction"))


@torch.inference_mode()
def measure(backbone: str, height: int, width: int, batch: int, precision: str, mode: str, options: Any) -> list[Row]:
    device = torch.device(options.device)
    images = peers.random_images(batch, height, width, device)
    canvas = nn.functional.pad(
        images, (0, -width % 32, 0, -height % 32)
    )  # as all pad their batches; peers do it inside
    sizes = torch.tensor([[height, width]] * batch, device=device)
    seen = sizes_or_none(canvas.cpu(), sizes.cpu())
    seen = None if seen is None else sizes
    ours = _treated(peers.mimicdet(backbone), device)
    plain = ours  # for the stages, which are not compiled one by one
    floor: Any = peers.Floor(ours)
    others = {name: peers.peer(name, backbone).eval().to(device) for name in options.peer}
    if mode != "eager":
        others = {name: _treated(model, device) for name, model in others.items()}
    if mode == "compiled":
        ours, floor = torch.compile(ours, fullgraph=True), torch.compile(floor, fullgraph=True)
        for model in others.values():  # networks only: torchvision's post-processing has no static shapes
            model.backbone = torch.compile(model.backbone, fullgraph=True)
            head = "rpn" if hasattr(model, "rpn") else "head"
            if head == "head":
                model.head = torch.compile(model.head)
            else:
                model.rpn.head = torch.compile(model.rpn.head)
                model.roi_heads.box_head = torch.compile(model.roi_heads.box_head)

    def cast(run: Callable[[], object]) -> Callable[[], object]:
        def under_autocast() -> object:
            with torch.autocast(device.type, PRECISION[precision], enabled=precision != "float32"):
                return run()

        return under_autocast

    def peer(model: nn.Module) -> Callable[[], object]:
        return lambda: model(list(images))

    cases = {"mimicdet": lambda: decode(ours(canvas, seen), sizes, peers.INFERENCE)}
    cases |= {name: peer(model) for name, model in others.items()}
    cases["backbone + pyramid"] = lambda: floor(canvas)
    cases = {name: cast(run) for name, run in cases.items()}
    setting = {
        "backbone": backbone,
        "device": device.type,
        "precision": precision,
        "mode": mode,
        "height": height,
        "width": width,
        "batch": batch,
    }
    title = f"{backbone} {height}x{width} batch {batch} {precision} {mode}"
    rows = rows_of(alternate(cases, rounds=options.rounds, device=device, title=title), "mimicdet", **setting)
    if mode == "eager":
        with torch.autocast(device.type, PRECISION[precision], enabled=precision != "float32"):
            parts = {
                f"mimicdet:{name}": cast(run) for name, run in stages(plain, canvas, sizes, peers.INFERENCE).items()
            }
            parts["mimicdet:s_head dense"] = cast(_dense_head(plain, canvas, sizes))
        timings = alternate(parts, rounds=options.rounds, device=device, title=f"{title}, stages")
        total = sum(timings[f"mimicdet:{name}"].median for name in STAGES)
        for row in rows_of(timings, None, **setting):
            rows.append(Row(**{**row.__dict__, "ratio": round(row.median_ms / total, 4)}))
    return rows


def _dense_head(model: Any, images: Tensor, sizes: Tensor) -> Callable[[], object]:
    refined = model.refine(images, sizes)
    return lambda: model.predict(refined, dense=True)


def _treated(model: nn.Module, device: torch.device) -> Any:
    """As ``Detector`` has it: evaluation mode, batch norm folded into convolutions, padding settled, channels last."""
    if isinstance(model, DetectionModel):
        model = fold_detector(model.eval())
    else:
        model = copy.copy(model).eval()
        model._modules = dict(model._modules)
        model.backbone = settle_padding(fold_batch_norm(model.backbone))
    return model.to(device).to(memory_format=torch.channels_last)


def _options() -> Any:
    made = parser((__doc__ or "").partition("\n")[0], "latency")
    made.add_argument("--backbone", nargs="+", choices=peers.BACKBONES, default=["resnet50"])
    made.add_argument("--size", nargs="+", type=peers.size, default=[(800, 1088)], metavar="HxW")
    made.add_argument("--batch", nargs="+", type=int, default=[1])
    made.add_argument("--precision", nargs="+", choices=PRECISION, default=["float32"])
    made.add_argument("--mode", nargs="+", choices=MODES, default=["eager", "treated"])
    made.add_argument("--peer", nargs="*", choices=peers.PEERS, default=list(peers.PEERS))
    return made.parse_args()


if __name__ == "__main__":
    main()
