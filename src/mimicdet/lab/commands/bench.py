"""Has the command ``mimicdet bench``."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic.dataclasses import dataclass

from mimicdet.commands.options import is_model_file, model_files
from mimicdet.commands.parser import DOCUMENTED, Argument
from mimicdet.errors import UserError
from mimicdet.files import require_own_file, write_json

MOST_PIXELS, MOST_IN_BATCH = 2**24, 2**26
"""A canvas and a batch have at most so many pixels: more takes all memory of most machines."""

EXAMPLES = """\
mimicdet bench runs/cells/model                         the whole and its stages, at the model's own image size
mimicdet bench runs/cells/model runs/cells/model.onnx   several side by side, in alternation
mimicdet bench runs/cells/model --size 800x1088 --batch 4 --threads 2 --json times.json
"""


@dataclass(frozen=True, kw_only=True, config=DOCUMENTED)
class Bench:
    """Times a trained model, exported or not: milliseconds of one batch, and of each stage.

    The time is that from pixels on the device to detections, without reading and resizing images. Several models are
    measured in alternation, so that a machine that slows down slows all of them.
    """

    models: Annotated[tuple[Path, ...], Argument("MODELS", positional=True)] = ()
    """Models are folders and exported files, one at least; the first one's time over each other's is given."""
    size: Annotated[str | None, Argument("HxW")] = None
    """Images have this height and width in pixels; by default the model's shorter side by four thirds of it, as far as
    it may be."""
    batch: Annotated[int, Argument("N")] = 1
    """So many images are handled at once."""
    rounds: Annotated[int, Argument("N")] = 20
    """So many measurements count."""
    threads: Annotated[int | None, Argument("N")] = None
    """PyTorch uses so many CPU threads."""
    device: Annotated[str | None, Argument("NAME")] = None
    """The model runs here, such as cpu or cuda:1; the first GPU by default, where there is one. Exported
    files run on the CPU."""
    trust: bool = False
    """A .pt2 file is read although it may hold code that runs then; whoever made it is trusted."""
    json: Annotated[Path | None, Argument("FILE")] = None
    """This file gets the times."""

    def run(self) -> int:
        if not self.models:
            raise UserError("mimicdet bench: name model folders or exported files")
        for name in ("batch", "rounds", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"mimicdet bench: --{name} must be at least 1, not {value}")
        if self.threads is not None and self.threads > (most := max(64, os.cpu_count() or 1)):
            raise UserError(f"mimicdet bench: --threads must be at most {most} on this machine, not {self.threads}")
        size = _size(self.size)
        models = [file for model in self.models for file in model_files(model)]
        require_own_file(self.json, *models, is_input=is_model_file)
        import torch

        from mimicdet.lab.bench import alternate, batch_detector, ratio, stages_of
        from mimicdet.predict import Detector
        from mimicdet.report.table import table

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        where = "cpu" if any(path.is_file() for path in self.models) else self.device  # a file is an exported model
        detectors = {str(path): Detector.from_pretrained(path, where, trust=self.trust) for path in self.models}
        first = detectors[str(self.models[0])]
        longest = first.inference.longer_side
        shorter = min(first.inference.shorter_side, longest)
        height, width = size or (shorter, min(longest, round(shorter * 4 / 3)))  # a photograph of three by four
        if height * width > MOST_PIXELS or self.batch * height * width > MOST_IN_BATCH:
            limits = f"an image may have {MOST_PIXELS:,} pixels and a batch {MOST_IN_BATCH:,}"
            raise UserError(f"mimicdet bench: {self.batch} x {height} x {width} pixels are too many; {limits} at most")
        pixels = list(torch.randint(0, 256, (self.batch, 3, height, width), dtype=torch.uint8))
        cases = {name: batch_detector(detector, pixels) for name, detector in detectors.items()}
        whole = alternate(cases, rounds=self.rounds, device=first.device, title="whole")
        rows = {name: (timing, ratio(whole[str(self.models[0])], timing)) for name, timing in whole.items()}
        for path, detector in detectors.items():
            if parts := stages_of(detector, pixels):
                timings = alternate(parts, rounds=self.rounds, device=first.device, title=f"stages of {path}")
                total = sum(timing.median for timing in timings.values())
                rows |= {f"{path}: {name}": (timing, timing.median / total) for name, timing in timings.items()}
        threads = torch.get_num_threads()
        print(f"{self.batch} x {height} x {width} pixels, {first.device}, {threads} threads\n")
        cells = [[n, f"{t.median:.1f}", f"{t.low:.1f}..{t.high:.1f}", f"{r:.2f}"] for n, (t, r) in rows.items()]
        print(table(["", "ms", "10 %..90 %", "ratio"], cells))
        print("\nratio: the first model's time over that row's; for stages, the share of their sum")
        if self.json is not None:
            about = {"batch": self.batch, "height": height, "width": width, "device": str(first.device)}
            times = [
                {"name": n, "median_ms": t.median, "low_ms": t.low, "high_ms": t.high, "ratio": r}
                for n, (t, r) in rows.items()
            ]
            write_json(self.json, {**about, "threads": threads, "rows": times})
        return 0


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = re.fullmatch("([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", text)
    if sides is None:
        raise UserError(f"mimicdet bench: --size must be a height and a width such as 800x1088, not {text!r}")
    return int(sides[1]), int(sides[2])
