"""How fast this checkout is beside another revision: a training step, a prediction, a validation.

    python benchmarks/against.py --against b3922fc
    python benchmarks/against.py --against b3922fc --most 1.02 1.02 0.9     ends with 1 where a median ratio is above

Both train with ``mimicdet train --preset small`` on a made-up data set (random weights; Lite0, images of 256 x 320
pixels, batches of 4), each in a process of its own. The two never work at once: a process works until its next step,
validation or prediction is done, reports the seconds and waits; the other does the same thing; who goes first
alternates. A row's ratio is the median over these pairs of this checkout's time by the other's, so that a machine
that slows down slows both sides of a pair. ``10 %..90 %`` is the range of the pairs, ``sure`` the 95 % interval of the
median. New processes are started ``--processes`` times, for where a process's memory happens to lie is worth a percent.
With one thread, the default, other work on the machine disturbs least; where there is much of it, ``--clock processor``
counts the time that a process computes instead of the time that passes.

The times are taken at seams that lie outside the package and hold for any revision:

- a step lasts from the end of one optimiser step to the end of the next, with its wait for images and its records;
  the first step of an epoch does not count;
- a validation lasts from the checkpoint before it to the end of COCO's counting: reading, detecting, counting;
- a prediction is ``Detector.from_pretrained(folder)(image)`` with the model that was trained, image by image.
"""

from __future__ import annotations

import argparse
import math
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from rectangles import write_split
from revision import ROOT, checked_out, environment, name_of, require_package_of

KINDS = ("step", "prediction", "validation")
SIZE = (256, 320)
BATCH = 4
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
WARM_UP = 5
"""Predictions that do not count."""
SETTINGS = (
    "--model.weights random --optim.backbone_lr_factor 1 --train.eval_every 1 --train.checkpoint_every 0 "
    "--train.pictures 0"
)


class Event(NamedTuple):
    """What a process has just finished."""

    kind: str
    """One of ``KINDS``, or what does not count: "first step", "end"."""
    seconds: float


def main() -> None:
    options = _options()
    if options.work is not None:
        work(Connection(options.work), options)
        return
    pairs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    with checked_out(options.against) as other, tempfile.TemporaryDirectory(prefix="mimicdet-") as temporary:
        folder = Path(temporary)
        write_split(folder / "data", "train", [SIZE] * (BATCH * options.steps), seed=1, objects=6)
        write_split(folder / "data", "val", [SIZE] * options.images, seed=2, objects=6)
        for number in range(options.processes):
            with ExitStack() as stack:
                sides = [
                    stack.enter_context(worker(checkout, folder / f"{title}-{number}", folder / "data", options))
                    for title, checkout in (("before", other), ("now", ROOT))
                ]
                for kind, before, now in alternated(*sides, now_first=number % 2 == 1):
                    pairs[kind].append((before, now))
    print(f"before: {name_of(options.against)}\nnow:    this checkout, from {name_of('HEAD')}")
    print(f"{options.threads} thread(s) on {os.cpu_count()} core(s), by the {options.clock} clock\n")
    sys.exit(report(pairs, dict(zip(KINDS, options.most, strict=True))))


def alternated(before: Connection, now: Connection, *, now_first: bool) -> Iterator[tuple[str, float, float]]:
    """Lets two processes do one piece of work after the other, never both at once, to their end.

    Yields:
        The kind of work and the seconds of both; not of the first epoch, in which they warm up.

    Raises:
        SystemExit: a process has ended early, or the two do not do the same.
    """
    warm = False
    while True:
        if now_first:
            new, old = _next(now), _next(before)
        else:
            old, new = _next(before), _next(now)
        if old.kind != new.kind:
            sys.exit(f"the two do not do the same: '{old.kind}' before, '{new.kind}' now")
        if old.kind == "end":
            return
        if old.kind in KINDS and warm:
            yield old.kind, old.seconds, new.seconds
        warm = warm or old.kind == "validation"
        now_first = not now_first


def _next(side: Connection) -> Event:
    """Lets a process do its next piece of work."""
    try:
        side.send("go on")
        return Event(*side.recv())
    except (EOFError, OSError):
        sys.exit("one of the two ended early")


def report(pairs: dict[str, list[tuple[float, float]]], most: dict[str, float]) -> int:
    """Prints a row for each kind of work; returns the program's exit code."""
    print("median of   pairs     before        now   ratio     10 %..90 %           sure  at most")
    code = 0
    for kind, times in pairs.items():
        before, now = (statistics.median(side) for side in zip(*times, strict=True))
        ratios = sorted(new / old for old, new in times)
        ratio = statistics.median(ratios)
        last = len(ratios) - 1
        low, high = ratios[round(0.1 * last)], ratios[round(0.9 * last)]
        code = max(code, int(ratio > most[kind]))
        print(
            f"{kind:10}  {len(times):5}  {1000 * before:6.1f} ms  {1000 * now:6.1f} ms  {ratio:6.3f}  "
            f"{low:5.3f}..{high:5.3f}  {_interval(ratios)}  {most[kind]:g}{'' if ratio <= most[kind] else ', missed'}"
        )
    return code


def _interval(ratios: Sequence[float]) -> str:
    """The 95 % interval of the median of sorted values: between two of them, by the binomial distribution."""
    n = len(ratios)
    rank = math.floor(n / 2 - 0.98 * math.sqrt(n))
    if rank < 1:
        return f"{'too few':>13}"
    return f"{ratios[rank - 1]:5.3f}..{ratios[n - rank]:5.3f}"


@contextmanager
def worker(checkout: Path, out: Path, data: Path, options: argparse.Namespace) -> Iterator[Connection]:
    """A process with a checkout's package that trains and predicts piece by piece (see ``work``)."""
    ours, theirs = Pipe()
    log = out.with_suffix(".log")
    given = {"work": theirs.fileno(), "out": out, "data": data}
    given |= {name: getattr(options, name) for name in ("epochs", "predictions", "clock")}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *words],
            env=environment(checkout, threads=options.threads),
            stdout=file,
            stderr=file,
            pass_fds=[theirs.fileno()],
        )
    theirs.close()  # so that reading ends when the process does
    try:
        yield ours
        process.wait()
    except SystemExit:
        print(f"{log.stem} said:\n{log.read_text()}", file=sys.stderr)
        raise
    finally:
        process.kill()
        process.wait()
        ours.close()


# ------------------------------------------------------------------- in a process of its own, for each revision


class Watch:
    """Reports pieces of work to the other process, and waits for its word before the next.

    Args:
        connection: to the process that says "go on".
        clock: in seconds.
    """

    def __init__(self, connection: Connection, clock: Callable[[], float]) -> None:
        self.connection = connection
        self.clock = clock
        self.settled = False
        self.connection.recv()
        self.restart()

    def restart(self) -> None:
        """Lets the piece of work under way begin now."""
        self.began = self.clock()

    def done(self, kind: str) -> None:
        """Ends the piece of work under way, and waits; the next begins when this returns."""
        self.connection.send((kind, self.clock() - self.began))
        self.connection.recv()
        self.restart()

    def step_done(self, *_: Any) -> None:
        """Ends a step, which does not count when it is an epoch's first: that one has waited for its first images."""
        self.done("step" if self.settled else "first step")
        self.settled = True

    def validation_done(self) -> None:
        """Ends a validation."""
        self.done("validation")
        self.settled = False


def work(connection: Connection, options: argparse.Namespace) -> None:
    """Trains, and predicts with what was trained, in pieces that the other process allows one by one."""
    require_package_of(Path(os.environ["PYTHONPATH"]).parent)
    import numpy as np
    from faster_coco_eval import COCOeval_faster
    from PIL import Image
    from torch.optim.optimizer import register_optimizer_step_post_hook

    watch = Watch(connection, CLOCKS[options.clock])
    register_optimizer_step_post_hook(watch.step_done)
    COCOeval_faster.accumulate = _followed_by(watch.validation_done, COCOeval_faster.accumulate)
    os.fsync = _followed_by(watch.restart, os.fsync)  # the end of a checkpoint, which comes before a validation
    _train(options)

    from mimicdet import Detector

    detector = Detector.from_pretrained(options.out / "model")
    images = [np.asarray(Image.open(file).convert("RGB")) for file in sorted((options.data / "val").iterdir())]
    for image in images[:WARM_UP]:
        detector(image)
    for number in range(options.predictions):
        watch.restart()
        detector(images[number % len(images)])
        watch.done("prediction")
    connection.send(("end", 0.0))


def _train(options: argparse.Namespace) -> None:
    """What ``python -m mimicdet train`` does, in this process."""
    words = f"--preset small {SETTINGS} --train.epochs {options.epochs}".split()
    sys.argv[1:] = ["train", str(options.data), "--out", str(options.out), *words]
    try:
        runpy.run_module("mimicdet", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise


def _followed_by(then: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    def both(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        then()
        return result

    return both


def _options() -> argparse.Namespace:
    made = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = made.add_argument
    add("--against", metavar="REVISION", help="that git knows, such as a hash or main")
    add("--most", type=float, nargs=3, default=[1.02] * 3, metavar="RATIO", help=f"for {', '.join(KINDS)}")
    add("--processes", type=int, default=2, metavar="N", help="of each revision, one after the other")
    add("--epochs", type=int, default=11, metavar="N", help="of each process; the first does not count")
    add("--steps", type=int, default=11, metavar="N", help="of an epoch; the first does not count")
    add("--images", type=int, default=24, metavar="N", help="of a validation")
    add("--predictions", type=int, default=100, metavar="N", help="of each process")
    add("--threads", type=int, default=1, metavar="N", help="of each process")
    add("--clock", choices=CLOCKS, default="wall", help="time that passes, or that the process computes")
    add("--work", type=int, help=argparse.SUPPRESS)
    add("--out", type=Path, help=argparse.SUPPRESS)
    add("--data", type=Path, help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.against is None and options.work is None:
        made.error("--against says which revision to compare with")
    if options.epochs < 2 or options.steps < 2:
        made.error("--epochs and --steps must be at least 2, for the first of each does not count")
    return options


if __name__ == "__main__":
    main()
