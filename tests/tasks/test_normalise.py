from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mimicdet.data.batch import Sample, collate
from mimicdet.tasks.task import WholeStep, divisors, mean_over_processes
from tests.fakes.tiny import gradients, sample, tiny_settings, tiny_task

VARIANTS: list[dict[str, Any]] = [
    {},
    {"task": "detect", "assign": {"s_box_normalizer": "positives"}},
    {"model": {"alignment": "deformable", "head_paths": "single"}, "teacher": {"variant": "light"}},
    {"mimic": {"negatives": False, "classification": "both"}},
]
STEPS = 2
WORLD = 2


def full() -> list[Sample]:
    return [sample(seed=1), sample((64, 100), seed=2)]


def empty() -> list[Sample]:
    return [sample((50, 64), seed=3, objects=0), sample((64, 64), seed=4, objects=0)]


SPLITS = {"one process without objects": (full(), empty()), "mixed": ([full()[0], empty()[0]], [empty()[1], full()[1]])}
"""What each of two processes gets."""


def train(task: nn.Module, images: list[Sample]) -> list[dict[str, Tensor]]:
    """Gradients of two steps of plain descent."""
    found = []
    optimizer = torch.optim.SGD(task.parameters(), lr=1e-4)
    for _ in range(STEPS):
        optimizer.zero_grad()
        task(collate(images))["loss"].backward()
        inner = task.module if isinstance(task, DistributedDataParallel) else task
        found.append({name: g.clone() for name, g in gradients(inner).items() if g is not None})
        optimizer.step()
    return found


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    try:
        found = {}
        for v, variant in enumerate(VARIANTS):
            for split, parts in SPLITS.items():
                task = DistributedDataParallel(tiny_task(tiny_settings(**variant)))
                found[v, split] = train(task, parts[rank])
        counts = mean_over_processes(torch.tensor([3.0 * rank, 0.0, 1.0]))
        torch.save({"gradients": found, "counts": counts}, f"{folder}/rank{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two gloo processes found, without a search for unused parameters."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(process, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("variant", range(len(VARIANTS)), ids=lambda v: str(VARIANTS[v]))
def test_two_processes_have_the_gradient_of_one_with_the_whole_batch(
    results: list[dict[str, Any]], variant: int, split: str
) -> None:
    expected = train(tiny_task(tiny_settings(**VARIANTS[variant])), [*SPLITS[split][0], *SPLITS[split][1]])
    for rank in range(WORLD):
        for step, wanted in enumerate(expected):
            found = results[rank]["gradients"][variant, split][step]
            assert found.keys() == wanted.keys()
            assert any(gradient.any() for gradient in wanted.values())
            for name, gradient in wanted.items():
                torch.testing.assert_close(
                    found[name], gradient, rtol=1e-8, atol=1e-8, msg=lambda m, n=name, s=step: f"{n}, step {s}: {m}"
                )


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("variant", [0, 2], ids=lambda v: str(VARIANTS[v]))
def test_accumulated_batches_have_the_gradient_of_one_with_all_their_images(variant: int, split: str) -> None:
    """Though one has positives and the other none."""
    task = tiny_task(tiny_settings(**VARIANTS[variant]))
    batches = [collate(images) for images in SPLITS[split]]
    whole_batch = collate([*SPLITS[split][0], *SPLITS[split][1]])
    counts = [task.count_positives(batch) for batch in batches]
    assert sum(counts) == task.count_positives(whole_batch) > 0
    for batch in batches:
        (task(batch, WholeStep(torch.stack(counts).sum(), 2))["loss"] / 2).backward()
    found = {name: g.clone() for name, g in gradients(task).items() if g is not None}
    task.zero_grad()
    task(whole_batch)["loss"].backward()
    for name, gradient in gradients(task).items():
        if gradient is not None:
            torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


def test_positives_are_of_the_step_and_other_counts_of_the_batch() -> None:
    three, ten = torch.tensor(3.0), torch.tensor(10)
    assert divisors([None, ten], three, None).tolist() == [3, 10]
    assert divisors([None, ten], three, WholeStep(torch.tensor(8.0), 4)).tolist() == [2, 10]
    nothing = torch.tensor(0.0)
    assert divisors([None, nothing], nothing, WholeStep(nothing, 4)).tolist() == [0.25, 0.25], "1 in the whole step"


def test_counts_are_averaged_over_processes_and_at_least_one_in_all(results: list[dict[str, Any]]) -> None:
    for found in results:
        assert found["counts"].tolist() == [1.5, 0.5, 1.0]


def test_alone_counts_stay_and_are_at_least_one(tmp_path: Path) -> None:
    counts = torch.tensor([0.0, 1.0, 7.0], requires_grad=True)
    found = mean_over_processes(counts)
    assert found.tolist() == [1.0, 1.0, 7.0]
    assert not found.requires_grad
    assert counts.tolist() == [0.0, 1.0, 7.0]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/alone", rank=0, world_size=1)
    try:
        assert mean_over_processes(counts).tolist() == [1.0, 1.0, 7.0]
        assert counts.tolist() == [0.0, 1.0, 7.0], "the caller's counts are left alone"
    finally:
        dist.destroy_process_group()
