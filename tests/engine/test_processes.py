"""Starting accelerate, and what makes a step repeatable. Several processes: see test_resume."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch

from mimicdet.engine.processes import accelerated, on_main, repeatable, seed_step
from mimicdet.errors import UserError


def test_one_program_may_train_twice_in_other_precisions() -> None:
    with accelerated(precision="no", accumulate=2) as accelerator:
        assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("no", 2)
        assert accelerator.num_processes == 1
    with accelerated(precision="bf16") as accelerator:
        assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("bf16", 1)


def test_accelerate_may_be_kept_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    with accelerated() as accelerator:
        assert accelerator.device.type == "cpu"
    with pytest.raises(UserError, match=r"train\.precision: fp16 needs a GPU"), accelerated(precision="fp16"):
        pass


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimicdet.engine.processes.get_available_trackers", lambda: [])
    with pytest.raises(UserError, match=r"train\.trackers: 'wandb' is not installed"), accelerated(trackers=["wandb"]):
        pass


LONELY = """
import os, signal
os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
from mimicdet.engine.processes import accelerated
signal.signal(signal.SIGINT, signal.default_int_handler)
print("waits", flush=True)
with accelerated():
    pass
"""


def test_ctrl_c_ends_a_process_that_looks_for_another() -> None:
    with subprocess.Popen([sys.executable, "-c", LONELY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(3)  # it waits for the other in C++ by now
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == -signal.SIGINT
        finally:
            process.kill()


def test_the_handler_of_ctrl_c_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    with accelerated():
        assert signal.getsignal(signal.SIGINT) is before
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "0")
    with accelerated():
        assert signal.getsignal(signal.SIGINT) is before


def test_on_main_returns_and_raises() -> None:
    def fail() -> None:
        raise UserError("no")

    with accelerated() as accelerator:
        assert on_main(accelerator, lambda: 3) == 3
        with pytest.raises(UserError, match="no"):
            on_main(accelerator, fail)


def test_summing_into_repeating_rows_is_repeatable_on_several_threads() -> None:
    """The backward of indexing, with so many repeats that threads do collide."""
    random = torch.Generator().manual_seed(0)
    index = torch.randint(0, 3, (200_000,), generator=random)
    values = torch.randn(200_000, generator=random)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with repeatable(torch.device("cpu")):
            sums = {tuple(torch.zeros(3).index_put_((index,), values, accumulate=True).tolist()) for _ in range(8)}
    finally:
        torch.set_num_threads(threads)
    assert len(sums) == 1


def test_repeatable_leaves_torch_as_it_was() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with repeatable(torch.device("cpu")):
        seed_step(0, 0, 0)
        torch.rand(3)
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


def test_a_step_draws_by_its_numbers_alone() -> None:
    def draw(*numbers: int) -> float:
        seed_step(*numbers)
        return torch.rand(()).item()

    with repeatable(torch.device("cpu")):
        first = draw(0, 1, 0)
        assert draw(0, 1, 0) == first
        assert len({first, draw(1, 1, 0), draw(0, 2, 0), draw(0, 1, 1), draw(1, 0, 0)}) == 5


def test_no_warning_of_ours() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with accelerated():
            pass


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("Timed out waiting 15000ms for recv operation to complete", "did not answer within 7 s"),
        ("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.77.0.2]:29511", "the connection broke"),
    ],
)
def test_lost_processes_are_one_sentence(monkeypatch: pytest.MonkeyPatch, words: str, why: str) -> None:
    """What gloo says when another process is silent or gone; alone, the same words mean something else."""

    def fail() -> None:
        with accelerated():
            raise RuntimeError(words)

    with pytest.raises(RuntimeError, match=r"[Tt]imed|Connection"):
        fail()
    monkeypatch.setattr("mimicdet.engine.processes.started_by_torchrun", lambda: True)
    monkeypatch.setattr("mimicdet.engine.processes._on_cpu", lambda: False)
    monkeypatch.setenv("MIMICDET_WAIT", "7")
    with pytest.raises(UserError, match=rf"process 0 on \S+ has lost the other processes .*{why}.*--resume"):
        fail()


@pytest.mark.parametrize("given", ["", "0", "-5", "inf", "nan", "ten"])
def test_the_time_to_wait_is_a_number(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("MIMICDET_WAIT", given)
    with pytest.raises(UserError, match=r"MIMICDET_WAIT is .*number of seconds"), accelerated():
        pass
