"""One training step of the mimic task in parts."""

from __future__ import annotations

import torch

from mimicdet.data.batch import Batch
from mimicdet.lab.bench.timing import Timing, alternate
from mimicdet.tasks.mimic import MimicTask
from mimicdet.tasks.student import prepare, student_sums

STEP_STAGES = ("backbone to refinement", "proposals and targets", "s_head", "t_head and the rest", "backward", "update")


def step_stages(
    task: MimicTask, batch: Batch, optimizer: torch.optim.Optimizer, *, rounds: int, title: str = ""
) -> dict[str, Timing]:
    """Durations of a step's stages, by the names in ``STEP_STAGES``.

    A forward pass cannot be stopped half way, so "proposals and targets" and "t_head and the rest" are what a longer
    part takes beyond the shorter ones of the same round.

    Args:
        task: in training mode; its gradients and weights change.
        batch: on the task's device.
        optimizer: of the task's parameters.
        rounds, title: see ``mimicdet.lab.bench.timing.alternate``.
    """
    detector, assign = task.detector, task.assign
    prepared = prepare(detector, batch, assign)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    loss = task(batch)["loss"]
    gradients = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = gradient
    times = alternate(
        {
            "refine": lambda: detector.refine(batch.images, batch.sizes),
            "prepare": lambda: prepare(detector, batch, assign),
            "s_head": lambda: student_sums(detector, batch, prepared, assign),
            "forward": lambda: task(batch),
            "backward": lambda: torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True),
        },
        rounds=rounds, device=batch.images.device, title=title,
    )  # fmt: skip
    # Alone: it writes to the weights, which the graph of the backward pass still needs
    update = alternate({"update": optimizer.step}, rounds=rounds, device=batch.images.device, title=title)
    stages = (
        times["refine"],
        _beyond(times["prepare"], times["refine"]),
        times["s_head"],
        _beyond(times["forward"], times["prepare"], times["s_head"]),
        times["backward"],
        update["update"],
    )
    return dict(zip(STEP_STAGES, stages, strict=True))


def _beyond(whole: Timing, *parts: Timing) -> Timing:
    """What is left of each round, at least nothing."""
    rounds = zip(whole.samples, *(part.samples for part in parts), strict=True)
    return Timing(tuple(max(0.0, first - sum(rest)) for first, *rest in rounds))
