"""Distillation on two processes, one of which sees no object, gives the gradients of one process with all images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mimicdet.data.batch import Sample, collate
from mimicdet.tasks.distill import LOSSES
from tests.fakes.tiny import sample
from tests.tasks.test_distill import OFF, make, save_teacher

WORLD = 2
EXACT = {"rank": 4.0, "soft_labels": 1.0, "cross": 1.0}
"""Divided by counts over all processes, or means over images; the others are means over a process's own cells."""
VARIANTS = {
    "exact": OFF | EXACT,
    "all": dict.fromkeys(LOSSES, 1.0),
    "two-stage": dict.fromkeys(LOSSES, 1.0) | {"cross": 0.0},
}


def parts() -> list[list[Sample]]:
    """Of one size: group normalisation and convolutions see padding."""
    size = (64, 96)
    return [
        [sample(size, seed=1), sample(size, seed=2)],
        [sample(size, seed=3, objects=0), sample(size, seed=4, objects=0)],
    ]


def gradients(folder: str, variant: str, images: list[Sample], *, distributed: bool) -> dict[str, Tensor]:
    from tests.tasks.test_distill import save_run

    if variant == "two-stage":
        teacher, _ = save_run(Path(folder) / f"run{dist.get_rank() if distributed else ''}")
    else:
        teacher = f"{folder}/teacher"
    task = make([teacher], "gfl", **VARIANTS[variant])
    model = DistributedDataParallel(task) if distributed else task
    model(collate(images))["loss"].backward()
    return {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    try:
        found = {name: gradients(folder, name, parts()[rank], distributed=True) for name in VARIANTS}
        torch.save(found, Path(folder) / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    save_teacher(folder / "teacher", "gfl", channels=24)
    torch.multiprocessing.spawn(process, args=(str(folder),), nprocs=WORLD)
    return folder


def test_two_processes_are_one(folder: Path) -> None:
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD))
    alone = gradients(str(folder), "exact", [s for part in parts() for s in part], distributed=False)
    assert alone.keys() == first["exact"].keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(
            first["exact"][name], gradient, atol=2e-4, rtol=2e-3, msg=lambda m, n=name: f"{n}: {m}"
        )
        torch.testing.assert_close(first["exact"][name], second["exact"][name], atol=0, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_process_waits_for_another(folder: Path, variant: str) -> None:
    """All losses at once: both processes get through, with the same finite gradients."""
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True)[variant] for rank in range(WORLD))
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].isfinite().all()
        torch.testing.assert_close(first[name], second[name], atol=0, rtol=0)
