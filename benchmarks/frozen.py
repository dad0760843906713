"""Whether this checkout still computes what another revision does, to the bit: hashes of both, side by side.

    python benchmarks/frozen.py --against b3922fc
    python benchmarks/frozen.py --against HEAD --only "detect gfl"          one training and its predictions

Every task and every family is trained for three steps on a made-up data set of six small images (frozen_runs.py says
how), and predicts in several ways. What is hashed:

- `losses`: each loss and diagnostic of each step, by name;
- `gradient norm`, and `gradient norms by module`, whose names do not count;
- `checkpoint`: weights, buffers, the optimiser's state (which holds the gradients) and averaged weights;
- `model`: the weights that ship;
- `detections`: category, box and score of every detection.

Tensors are compared as a set of shapes and bytes, for a module may get another name. Both revisions are spoken to
through the command line and the files it writes alone. Validation is not looked at. All on one thread and the CPU.
Ends with 1 where a row differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from frozen_runs import SHARED, Training, chosen
from rectangles import write_split
from revision import ROOT, checked_out, environment, name_of, require_package_of

SIZES = ((96, 128), (80, 120), (100, 90), (64, 64), (128, 70), (300, 400))
"""Heights and widths of the images to train on; the last is a JPEG that training decodes at a fraction of its size."""
TEST_SIZES = ((96, 128), (150, 110), (70, 200), (240, 320))
TIMES = {"seconds", "seconds_per_step", "data_wait", "peak_memory_gib"}
HEAVY = ["torch", "torchvision", "timm", "accelerate", "faster_coco_eval", "matplotlib.figure", "safetensors.torch"]
SHOWN = 2
"""Differences of a row that are told."""

Row = list[str]
"""What a row's hash is made of; the order counts for nothing."""


def main() -> None:
    options = _options()
    if options.collect:
        collect(options.collect, options.only)
        return
    if not chosen(options.only):
        sys.exit(f"no training is called like '{options.only}'")
    with checked_out(options.against) as other, tempfile.TemporaryDirectory(prefix="mimicdet-") as temporary:
        folder = Path(temporary)
        write_split(folder / "data", "train", SIZES, seed=1, crowd=True)
        write_split(folder / "test", "test", TEST_SIZES, seed=2)
        before, now = _collect_both((other, ROOT), folder, options.only, together=not options.one_by_one)
    print(f"before: {name_of(options.against)}\nnow:    this checkout, from {name_of('HEAD')}\n")
    sys.exit(report(before, now))


def report(before: dict[str, Row], now: dict[str, Row]) -> int:
    """Prints a line for every row, and what differs; returns the program's exit code."""
    names = list(dict.fromkeys([*before, *now]))
    width = max(map(len, names))
    different = 0
    print(f"{'':{width}}  before        now           equal")
    for name in names:
        old, new = (rows.get(name) for rows in (before, now))
        equal = old is not None and new is not None and Counter(old) == Counter(new)
        different += not equal
        print(f"{name:{width}}  {digest(old)}  {digest(new)}  {'yes' if equal else 'NO'}")
        for line in [] if equal else differences(old or [], new or []):
            print(f"    {line}")
    print(f"\n{len(names) - different} of {len(names)} are equal")
    return 1 if different else 0


def digest(row: Row | None) -> str:
    """Returns a hash over the items in any order, or that there are none."""
    return "missing     " if row is None else hashlib.sha256("\n".join(sorted(row)).encode()).hexdigest()[:12]


def differences(old: Row, new: Row) -> Iterator[str]:
    """Yields a few of the items that only one of the two has, and how many there are."""
    for title, one, other in (("before", old, new), ("now", new, old)):
        alone = sorted((Counter(one) - Counter(other)).elements())
        yield f"only {title}: {len(alone)} of {len(one)}" + (": " if alone else "") + "; ".join(alone[:SHOWN])


def _collect_both(checkouts: Sequence[Path], folder: Path, only: str, *, together: bool) -> list[dict[str, Row]]:
    files = [folder / title / "rows.json" for title in ("before", "now")]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for checkout, file in zip(checkouts, files, strict=True):
            file.parent.mkdir()
            words = [sys.executable, str(Path(__file__).resolve()), "--collect", str(file), "--only", only]
            variables = environment(checkout, threads=1)
            running.append(subprocess.Popen(words, env=variables, cwd=folder, start_new_session=True))
            if not together:
                _wait(running)
        _wait(running)
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return [json.loads(file.read_text()) for file in files]


def _wait(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Waits for all, or for the first that fails, which has said why."""
    while (codes := [process.poll() for process in running]).count(0) < len(codes):
        if any(codes):
            sys.exit("one of the two could not be run to its end")
        time.sleep(0.1)


# ------------------------------------------------------------------- in a process of its own, for each revision


def collect(file: Path, only: str) -> None:
    """Runs the trainings and predictions with the package that Python finds, and writes their rows."""
    require_package_of(Path(os.environ["PYTHONPATH"]).parent)
    folder = file.parent
    commands = Commands(folder / "log.txt")
    dense = commands.word_for_dense()
    rows: dict[str, Row] = {}
    for training in chosen(only):
        run = folder / training.name.replace(" ", "_")
        words = ["train", str(folder.parent / "data"), "--out", str(run), *f"{SHARED} {training.options}".split()]
        for name in training.teachers:
            teacher = folder / name.replace(" ", "_")
            words += ["--teacher", str(teacher if name.startswith("mimic ") else teacher / "model")]
        commands.run(words)
        rows |= {f"{training.name}: {row}": items for row, items in of_run(run).items()}
        rows |= {f"{training.name}: {row}": items for row, items in _predictions(commands, training, run, dense)}
        print(f"{folder.name}: {training.name}", file=sys.stderr)
    file.write_text(json.dumps(rows))


def _predictions(commands: Commands, training: Training, run: Path, dense: str) -> Iterator[tuple[str, Row]]:
    ways = [(row, run / "model", words.replace("DENSE", dense)) for row, words in training.predictions.items()]
    if training.exported:
        file = run / "model.pt2"
        commands.run(["export", str(run / "model"), "--format", "torch", "--out", str(file)])
        trust = "--trust" if "--trust" in commands.run(["predict", "--help"]) else ""  # earlier revisions ask for none
        ways.append(("detections of the exported model", file, trust))
    for row, model, words in ways:
        found = run / "found.json"
        images = run.parent.parent / "test" / "test"
        commands.run(["predict", str(model), str(images), "--json", str(found), *words.split()])
        yield (
            row,
            [repr((d["image_id"], d["category_id"], d["bbox"], d["score"])) for d in json.loads(found.read_text())],
        )


def of_run(run: Path) -> dict[str, Row]:
    """Returns the rows of a run folder."""
    import safetensors.torch
    import torch

    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = [
        (record["step"], name, repr(value))
        for record in records
        if record["kind"] == "train"
        for name, value in record.items()
        if name not in TIMES
    ]
    checkpoint = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    return {
        "losses": [f"step {step} {name} {value}" for step, name, value in values if "grad_norm" not in name],
        "gradient norm": [f"step {step} {value}" for step, name, value in values if name == "grad_norm"],
        "gradient norms by module": [f"step {step} {value}" for step, name, value in values if "grad_norm/" in name],
        "checkpoint": [_of_tensor(t) for key in ("task", "optimizer", "average") for t in tensors(checkpoint[key])],
        "model": [
            _of_tensor(t)
            for f in (run / "model").glob("*.safetensors")
            for t in safetensors.torch.load_file(f).values()
        ],
    }


def tensors(state: Any) -> Iterator[Any]:
    """Yields every tensor in dictionaries and lists."""
    if hasattr(state, "untyped_storage"):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors(value)


def _of_tensor(tensor: Any) -> str:
    content = tensor.detach().contiguous().numpy().tobytes()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(content).hexdigest()[:12]}"


class Commands:
    """Runs commands, each in a process of its own that starts with the heavy libraries loaded already.

    Args:
        log: file for what they print.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(HEAVY)

    def run(self, words: Sequence[str]) -> str:
        """Runs ``python -m mimicdet`` with these words; returns what it prints.

        Raises:
            SystemExit: it ends with another code than 0.
        """
        process = self.context.Process(target=_as_module, args=(list(words), self.log))
        process.start()
        process.join()
        printed = self.log.read_text()
        if process.exitcode:
            sys.exit(f"{self.log.parent.name}: mimicdet {' '.join(words)}\nended with {process.exitcode}:\n{printed}")
        return printed

    def word_for_dense(self) -> str:
        """Returns the option that computes the S-head everywhere, by the name it has in this revision."""
        known = "--inference.dense" in self.run(["predict", "--help"])
        return "--inference.dense true" if known else "--inference.s_head dense"


def _as_module(words: list[str], log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv[1:] = words
    runpy.run_module("mimicdet", run_name="__main__", alter_sys=True)


def _options() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--against", metavar="REVISION", help="that git knows, such as a hash or main")
    made.add_argument("--only", metavar="TEXT", default="", help="trainings whose names hold this, and their teachers")
    made.add_argument("--one-by-one", action="store_true", help="one revision after the other, not both at once")
    made.add_argument("--collect", type=Path, help=argparse.SUPPRESS)
    options = made.parse_args()
    if not options.against and not options.collect:
        made.error("--against says which revision to compare with")
    return options


if __name__ == "__main__":
    main()
