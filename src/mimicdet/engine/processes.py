"""The processes of a run: how they start, what only the first does, what makes them repeatable.

One process, or as many as torchrun starts: each on its own GPU (NCCL), or all on the CPU (gloo).
"""

import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    broadcast_object_list,
)
from torch import nn

from mimicdet.data.order import image_seed, sampling_seed
from mimicdet.errors import UserError

Result = TypeVar("Result")

WAIT_S = 1800.0
"""A process waits for the others so long before it gives up; ``MIMICDET_WAIT`` changes it, in seconds."""


@contextmanager
def accelerated(
    *,
    precision: str = "no",
    accumulate: int = 1,
    trackers: Sequence[str] = (),
    tracker_folder: Path | None = None,
    broadcast_buffers: bool = False,
) -> Iterator[Accelerator]:
    """Yields this process's part in the run, by accelerate; torchrun's variables say which process it is.

    Leaves accelerate's global state as it was, so that one program can train twice with different settings, and
    ends the group of processes if it began here.

    Args:
        accumulate: micro-batches whose gradients are averaged into one step.
        trackers: names of accelerate's trackers; ``init_trackers`` is left to the caller.
        broadcast_buffers: copy the first process's buffers to all before a step, which batch norm in training
            needs; frozen statistics are equal anyway.

    Raises:
        UserError: fp16 without a GPU; a tracker whose package is not installed; other processes that have ended or do
            not answer.
    """
    available = [str(tracker) for tracker in get_available_trackers()]
    for name in trackers:
        if name not in available:
            raise UserError(f"train.trackers: '{name}' is not installed; run `pip install {name}` or leave it out")
    cpu = _on_cpu()
    if cpu and precision == "fp16":
        raise UserError("train.precision: fp16 needs a GPU; on the CPU use 'no' or 'bf16'")
    ours = not torch.distributed.is_initialized()
    backend = "gloo" if cpu and started_by_torchrun() else None
    wait = _wait_s()
    group = InitProcessGroupKwargs(backend=backend, timeout=timedelta(seconds=wait))
    parallel = DistributedDataParallelKwargs(broadcast_buffers=broadcast_buffers, gradient_as_bucket_view=True)
    with _lost_processes_explained(wait), _ctrl_c_unasked():
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulate),
            log_with=list(trackers) or None,
            project_dir=tracker_folder,
            kwargs_handlers=[group, parallel],
        )
    try:
        with _lost_processes_explained(wait):
            yield accelerator
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        if ours:
            accelerator.state.destroy_process_group()
        # accelerate (1.15) keeps precision, accumulation and device for the life of the process, and refuses an
        # Accelerator that asks for others. Its own tests let go of them thus; there is no public way.
        AcceleratorState._reset_state(reset_partial_state=ours)
        GradientState._reset_state()


def _wait_s() -> float:
    given = os.environ.get("MIMICDET_WAIT", str(WAIT_S))
    try:
        if 0 < (seconds := float(given)) < math.inf:
            return seconds
    except ValueError:
        pass
    raise UserError(f"MIMICDET_WAIT is {given!r}; it should be a number of seconds above 0, such as 600")


@contextmanager
def _lost_processes_explained(wait: float) -> Iterator[None]:
    """Turns what the backends raise when a process is gone or silent into a UserError; anything else passes."""
    try:
        yield
    except RuntimeError as error:  # gloo raises these, NCCL and the store DistError, which is one
        text = str(error).lower()
        silent = any(word in text for word in ("timed out", "timeout"))
        broken = any(word in text for word in ("connection closed", "connection reset", "broken pipe", "connect"))
        if not started_by_torchrun() or not (isinstance(error, torch.distributed.DistError) or silent or broken):
            raise
        why = f"they did not answer within {wait:g} s" if silent else "the connection broke"
        own = f"process {os.environ.get('RANK', '0')} on {socket.gethostname()}"
        way_out = "see what ended them, then start all again with --resume"
        raise UserError(f"{own} has lost the other processes of this run ({why}); {way_out}") from error


@contextmanager
def _ctrl_c_unasked() -> Iterator[None]:
    """Lets Ctrl-C end one of several processes by itself while they look for each other: nothing is written yet.

    They wait for each other outside Python, which would heed the signal only afterwards: never, if the other has ended.
    """
    several, main = started_by_torchrun(), threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not several or not main or not callable(before):  # ignored, or the system's already
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _on_cpu() -> bool:
    """Accelerate has to be told: left alone it trains apart what torchrun started on a machine without a GPU."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on")
    if asked or not torch.accelerator.is_available():
        return True
    device = torch.accelerator.current_accelerator()
    return started_by_torchrun() and device is not None and device.type == "mps"  # which has no process groups


def started_by_torchrun() -> bool:
    """Tells whether torchrun started this process, alone or with others."""
    return "LOCAL_RANK" in os.environ


def on_main(accelerator: Accelerator, work: Callable[[], Result]) -> Result:
    """Calls ``work()`` on the first process only, and returns its result on all.

    A UserError raised by it is raised on every process, so that none waits for one that has given up.
    """
    if accelerator.num_processes == 1:
        return work()
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome = [work(), None]
        except UserError as error:
            outcome = [None, str(error)]
    result, message = broadcast_object_list(outcome)
    if message is not None:
        raise UserError(message)
    return result


def share_buffers(accelerator: Accelerator, module: nn.Module) -> None:
    """Gives every process the first one's buffers: batch-norm statistics that moved apart since the last step."""
    if accelerator.num_processes > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Makes the CPU compute the same bits every time; afterwards torch is set as before.

    Summing into rows that repeat (the backward of indexing) runs on several threads in whatever order unless
    deterministic algorithms are asked for. They are not on a GPU: there they cost speed, and some do not exist.
    The global random state, which no part of this package reads but a backbone with stochastic depth does, is
    set anew for every step (`seed_step`) and put back at the end.
    """
    switches: Any = torch.utils.deterministic
    mode, fill = torch.get_deterministic_debug_mode(), switches.fill_uninitialized_memory
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if device.type == "cpu":
                torch.use_deterministic_algorithms(True, warn_only=True)
                switches.fill_uninitialized_memory = False  # finds bugs, at a price
            yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        switches.fill_uninitialized_memory = fill


def seed_step(seed: int, step: int, rank: int) -> None:
    """Sets the global random state to a pure function of its arguments."""
    torch.manual_seed(sampling_seed(sampling_seed(image_seed(seed, step, rank))))  # no image draws from this stream
