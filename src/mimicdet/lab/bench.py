"""Measures how fast detectors are, in alternation: a whole prediction, its parts, and the parts of a training step.

B images, H W the padded canvas.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from mimicdet.config import InferenceSettings
from mimicdet.data.batch import Batch, pad_to_batch
from mimicdet.errors import one_line
from mimicdet.inference.decode import decode
from mimicdet.inference.detect import sizes_or_none
from mimicdet.inference.fold import FoldedModel
from mimicdet.models.detector import Predictions
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.pyramid import mask_padding
from mimicdet.predict.detector import Detector
from mimicdet.tasks.mimic import MimicTask
from mimicdet.tasks.student import prepare, student_sums

Work = Callable[[], object]
"""A case to time: one unit of work at each call."""

STAGES = ("backbone", "pyramid", "refinement", "s_head", "decode")
STEP_STAGES = ("backbone to refinement", "proposals and targets", "s_head", "t_head and the rest", "backward", "update")


class Timing(NamedTuple):
    """Holds the milliseconds of one case in every round."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def low(self) -> float:
        """Returns the first decile: a tenth of the rounds were faster."""
        return sorted(self.samples)[round(0.1 * (len(self.samples) - 1))]

    @property
    def high(self) -> float:
        """Returns the last decile: a tenth of the rounds were slower."""
        return sorted(self.samples)[round(0.9 * (len(self.samples) - 1))]


def ratio(first: Timing, second: Timing) -> float:
    """Returns the median of the ratios of each round, in which both ran one after the other."""
    return statistics.median(a / b for a, b in zip(first.samples, second.samples, strict=True))


def alternate(
    cases: Mapping[str, Work], *, rounds: int, warmup: int = 2, device: torch.device | str = "cpu", title: str = ""
) -> dict[str, Timing]:
    """Runs every case once a round, so that a machine that slows down slows all of them.

    The order is the given one in even rounds and the reverse in odd ones. A GPU is waited for before and after each
    case. The progress bar with ``title`` is shown on a terminal only. At least one round counts, after the ``warmup``.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    wait = partial(torch.cuda.synchronize, device) if torch.device(device).type == "cuda" else lambda: None
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for number in tqdm(range(-warmup, rounds), desc=one_line(title) or None, leave=False, disable=None):
        for name in list(cases) if number % 2 == 0 else reversed(list(cases)):
            wait()
            start = time.perf_counter()
            cases[name]()
            wait()
            if number >= 0:
                samples[name].append(1000 * (time.perf_counter() - start))
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def machine() -> str:
    """Names device, Python and libraries; of a CPU also PyTorch's instructions, which decide how it rounds."""
    names = ", ".join(f"{name} {version(name)}" for name in ("mimicdet", "torch", "torchvision", "timm"))
    kind = ", ".join(filter(None, [cpu_name(), torch.backends.cpu.get_cpu_capability()]))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores ({kind})"
    return f"{device}, Python {platform.python_version()}, {names}"


def cpu_name() -> str:
    """Returns the processor as it calls itself, such as ``AMD EPYC``; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def batch_detector(detector: Detector, images: Sequence[Tensor]) -> Work:
    """Returns detection in resized images (3, h, w) uint8, by the detector's own settings, as a unit of work."""
    inference, runner = detector.inference, detector.runner
    return lambda: runner.detect(pad_to_batch(images, runner.divisor), inference)


def stages_of(detector: Detector, images: Sequence[Tensor]) -> dict[str, Work]:
    """Returns the parts of that work; none where the model has others, or is an exported file, which is one piece."""
    runner = detector.runner
    if not isinstance(runner, FoldedModel) or not isinstance(runner.model, MimicDet):
        return {}
    batch = pad_to_batch(images, runner.model.divisor).to(runner.device)
    with torch.inference_mode():
        parts = stages(runner.folded(), batch.images, batch.sizes, detector.inference)  # type: ignore[arg-type]
    return {name: torch.inference_mode()(part) for name, part in parts.items()}


def stages(model: MimicDet, images: Tensor, sizes: Tensor, inference: InferenceSettings) -> dict[str, Work]:
    """Returns each stage of a prediction, on the results of the stages before it, by the names in ``STAGES``.

    The model is in evaluation mode, on the device of ``images`` (B, 3, H, W); ``sizes`` (B, 2) are height and width of
    each image inside the canvas. Run this and the stages in inference mode. ``decode`` includes suppression.
    """
    seen, trunk = sizes_or_none(images, sizes), model.trunk

    def backbone() -> dict[int, Tensor]:
        return trunk.backbone(mask_padding(trunk.backbone.normalise(images), seen, 0))

    features = backbone()
    pyramid = trunk.pyramid(features, seen)
    refined = model.refine(images, seen)

    def s_head() -> Predictions:
        return model.predict(refined, top=inference.positions)

    output = s_head()
    return {
        "backbone": backbone,
        "pyramid": lambda: trunk.pyramid(features, seen),
        "refinement": lambda: model.refine_pyramid(pyramid, seen),
        "s_head": s_head,
        "decode": lambda: decode(output, sizes, inference),
    }


def step_stages(
    task: MimicTask, batch: Batch, optimizer: torch.optim.Optimizer, *, rounds: int, title: str = ""
) -> dict[str, Timing]:
    """Measures the stages of a training step of the mimic task, by the names in ``STEP_STAGES``.

    A forward pass cannot be stopped half way, so "proposals and targets" and "t_head and the rest" are the time that a
    longer part takes beyond the shorter ones of the same round.

    The task is in training mode, on the batch's device; its gradients and weights change.
    """
    detector, assign, device = task.detector, task.assign, batch.images.device
    prepared = prepare(detector, batch, assign)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    loss = task(batch)["loss"]
    gradients = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = gradient
    cases = {
        "refine": lambda: detector.refine(batch.images, batch.sizes),
        "prepare": lambda: prepare(detector, batch, assign),
        "s_head": lambda: student_sums(detector, batch, prepared, assign),
        "forward": lambda: task(batch),
        "backward": lambda: torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True),
    }
    times = alternate(cases, rounds=rounds, device=device, title=title)
    # Alone: it writes to the weights, which the graph of the backward pass still needs
    update = alternate({"update": optimizer.step}, rounds=rounds, device=device, title=title)["update"]
    proposals = _beyond(times["prepare"], times["refine"])
    rest = _beyond(times["forward"], times["prepare"], times["s_head"])
    stages = times["refine"], proposals, times["s_head"], rest, times["backward"], update
    return dict(zip(STEP_STAGES, stages, strict=True))


def _beyond(whole: Timing, *parts: Timing) -> Timing:
    """Returns the time left of each round, at least nothing."""
    rounds = zip(whole.samples, *(part.samples for part in parts), strict=True)
    return Timing(tuple(max(0.0, first - sum(rest)) for first, *rest in rounds))
