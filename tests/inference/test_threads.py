"""Detectors in several threads of one process, as in a threaded web server: nothing that folds reaches the others."""

import copy
import functools
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mimicdet import Detector
from mimicdet.build import build_model
from mimicdet.data.batch import Batch, Sample, collate
from mimicdet.data.dataset import Category
from mimicdet.models.detector import DetectionModel
from mimicdet.predict.detector import Detection
from mimicdet.tasks import build_task
from tests.engine.toy import SIDE, toy_settings

SETTINGS = toy_settings()
CATEGORIES = (Category(1, "red"), Category(5, "green"))
TIMES = 20
"""Threads get into one another's way by chance."""
Call = Callable[[], list[Detection]]
Way = Callable[[Path, Detector], list[Call]]
IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: MimicDet, whose backbone has live batch norm with statistics that do something."""
    torch.manual_seed(0)
    model = build_model(SETTINGS.model, len(CATEGORIES), pretrained=False)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    inference = SETTINGS.inference.model_copy(update={"score_threshold": 0.0})
    path = tmp_path_factory.mktemp("model")
    Detector(model=model, categories=CATEGORIES, settings=SETTINGS.model, inference=inference).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def expected(folder: Path) -> Detection:
    """What one thread finds."""
    (found,) = Detector.from_pretrained(folder)(IMAGE)
    assert len(found["scores"]) > 0
    return found


def fresh(detector: Detector) -> Detector:
    """Another detector like one that was never used; loading it from the folder takes longer."""
    assert isinstance(detector.model, DetectionModel)
    model = copy.deepcopy(detector.model)
    return Detector(
        model=model, categories=detector.categories, settings=detector.settings, inference=detector.inference
    )


def each_has_its_own(folder: Path, detector: Detector) -> list[Call]:
    return [functools.partial(fresh(detector), IMAGE) for _ in range(4)]


def one_serves_while_another_is_loaded(folder: Path, detector: Detector) -> list[Call]:
    warm = fresh(detector)
    warm(IMAGE)
    return [lambda: warm([IMAGE] * 4, batch_size=1), lambda: Detector.from_pretrained(folder)(IMAGE)]


def one_is_shared_from_its_first_use(folder: Path, detector: Detector) -> list[Call]:
    return [functools.partial(fresh(detector), IMAGE)] * 4


ways = pytest.mark.parametrize(
    "way", [each_has_its_own, one_serves_while_another_is_loaded, one_is_shared_from_its_first_use]
)


def at_once(calls: list[Call]) -> list[Detection]:
    """All results of the calls, each in a thread of its own; they begin together."""
    found: list[Detection] = []
    errors: list[BaseException] = []
    ready = threading.Barrier(len(calls))

    def run(call: Call) -> None:
        ready.wait()
        try:
            found.extend(call())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return found


def assert_all_find(found: list[Detection], expected: Detection) -> None:
    assert len(found) >= 4
    for one in found:
        for key in ("boxes", "scores", "labels"):
            assert torch.equal(one[key], expected[key]), key


@ways
def test_every_thread_finds_what_one_alone_does(way: Way, folder: Path, expected: Detection) -> None:
    detector = Detector.from_pretrained(folder)
    for _ in range(TIMES):
        assert_all_find(at_once(way(folder, detector)), expected)
    assert_all_find(Detector.from_pretrained(folder)([IMAGE] * 4), expected)


@ways
def test_so_it_does_while_another_thread_trains_and_the_training_is_the_same(
    way: Way, folder: Path, expected: Detection
) -> None:
    alone, training, detector = Training(), Training(), Detector.from_pretrained(folder)
    losses = [alone.step() for _ in range(3)]
    trained: list[list[float]] = []
    done = threading.Event()

    def train() -> None:
        while not done.is_set() or len(trained) < len(losses):
            trained.append(training.step())

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(TIMES):
            assert_all_find(at_once(way(folder, detector)), expected)
    finally:
        done.set()
        thread.join()
    assert trained[: len(losses)] == losses


class Training:
    """Steps of MimicDet's task on one batch, always the same."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.task = build_task(SETTINGS, class_names=[c.name for c in CATEGORIES], pretrained=False).train()
        self.optimizer = torch.optim.SGD(self.task.parameters(), lr=0.01)
        self.batch = batch()

    def step(self) -> list[float]:
        """Loss and gradient norm."""
        self.optimizer.zero_grad()
        loss = self.task(self.batch)["loss"]
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.task.parameters() if p.grad is not None])
        self.optimizer.step()
        return [loss.item(), norm.item()]


def batch() -> Batch:
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 255, (3, SIDE, SIDE), dtype=np.uint8))
    boxes, labels = torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([1])
    return collate([Sample(image, boxes, labels, torch.tensor([False]), 1, "1.png", (SIDE, SIDE), seed=3)])
