"""Measures how fast the models of a study's runs are, side by side on one machine."""

from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np
import torch

from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.decode import read_image
from mimicdet.data.transform import resize_for_inference
from mimicdet.engine.run_folder import RunFolder
from mimicdet.lab.bench import alternate, batch_detector
from mimicdet.lab.study.evidence import Outcome, Speed, write_evidence
from mimicdet.predict import Detector

ROUNDS = 20
"""Every model detects in so many images, each in turn with the others."""


def measure_speeds(outcomes: Sequence[Outcome], data: DetectionDataset) -> str | None:
    """Measures the models of all runs, of the first finished seed each, unless that was done; or says why it cannot.

    The first images of the validation split are detected in one by one, each by every model in turn, so that a machine
    that slows down slows all of them; on a processor by one thread, which other machines have too. The times go into
    the runs' evidence, which the outcomes were read from.
    """
    first = {one.run: one for one in reversed(outcomes)}
    if all(one.speed is not None and set(one.speed.runs) == set(first) for one in first.values()):
        return None
    for run, one in first.items():
        if not RunFolder(one.place).last_model.is_dir():
            return f"no speeds: the weights of '{run}, seed {one.seed}' are gone; remove {one.place} to train them anew"
    detectors = {run: Detector.from_pretrained(RunFolder(one.place).last_model) for run, one in first.items()}
    device = next(iter(detectors.values())).device
    images = [read_image(record.file) for record in data.images[:ROUNDS]]
    cases = {run: _in_turn(detector, images) for run, detector in detectors.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        timings = alternate(cases, rounds=ROUNDS, device=device, title="speed")
    finally:
        torch.set_num_threads(threads)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "1 CPU thread"
    for run, one in first.items():
        speed = Speed(milliseconds=list(timings[run].samples), runs=list(first), device=name)
        write_evidence([one.model_copy(update={"speed": speed})], one.place)
    return None


def _in_turn(detector: Detector, images: Sequence[np.ndarray]) -> Callable[[], object]:
    """Returns a unit of work that detects in the next image at each call."""
    sides = detector.inference.shorter_side, detector.inference.longer_side
    units = cycle([batch_detector(detector, [resize_for_inference(image, *sides)]) for image in images])
    return lambda: next(units)()
