"""One step: accumulation, clipping, the finite check, norms, and what it says when memory ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn

from mimicdet.data.batch import Batch, Sample, collate
from mimicdet.engine.processes import accelerated
from mimicdet.engine.step import Stepper, agree, gradient_norms, too_many_bad_steps
from mimicdet.errors import UserError
from mimicdet.tasks.task import WholeStep


class Task(nn.Module):
    """Pulls the mean of a linear detector's outputs towards 1; an image whose first pixel is 255 spoils the loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.detector = nn.ModuleDict({"backbone": nn.Linear(12, 4), "head": nn.Linear(4, 1)})
        self.told: list[tuple[float, int] | None] = []
        self.spoil: Callable[[Tensor], Tensor] = lambda loss: loss * float("nan")

    def forward(self, batch: Batch, whole: WholeStep | None = None) -> dict[str, Tensor]:
        self.told.append(None if whole is None else (whole.positives.item(), whole.batches))
        x = batch.images[:, :, :2, :2].flatten(1).float() / 255
        loss = (self.detector["head"](self.detector["backbone"](x)) - 1).square().mean()
        if (batch.images[:, 0, 0, 0] == 255).any():
            loss = self.spoil(loss)
        return {"loss": loss, "part": loss.detach() / 2}


def batch(*names: str, spoilt: bool = False) -> Batch:
    """One image a name, its pixels a function of the name."""
    samples = []
    for name in names:
        generator = torch.Generator().manual_seed(sum(name.encode()))
        image = torch.randint(0, 255, (3, 4, 4), generator=generator, dtype=torch.uint8)
        image[0, 0, 0] = 255 if spoilt else 0
        samples.append(
            Sample(
                image=image,
                boxes=torch.zeros(0, 4),
                labels=torch.zeros(0, dtype=torch.int64),
                crowd=torch.zeros(0, dtype=torch.bool),
                image_id=1,
                file=f"{name}.jpg",
                original_size=(4, 4),
                seed=0,
            )
        )
    return collate(samples)


def no_positives(batch: Batch) -> Tensor:
    """Of a task that divides by nothing."""
    return torch.zeros(())


@pytest.fixture
def stepper() -> Iterator[Callable[..., Stepper]]:
    contexts = ExitStack()

    def make(task: Task, *, accumulate: int = 1, clip: float = 0.0) -> Stepper:
        contexts.close()  # one at a time
        accelerator = contexts.enter_context(accelerated(accumulate=accumulate))
        model = accelerator.prepare_model(task)
        plain = torch.optim.SGD([{"params": list(task.parameters()), "lr_factor": 1.0}], lr=1.0, momentum=0.9)
        return Stepper(
            accelerator=accelerator,
            model=model,
            optimizer=accelerator.prepare_optimizer(plain),
            modules=dict(task.detector.named_children()),
            clip=clip,
            count_positives=no_positives,
        )

    with contexts:
        yield make


def weights(task: Task) -> list[Tensor]:
    return [p.detach().clone().cpu() for p in task.parameters()]


def test_accumulated_batches_are_one_large_batch(stepper: Callable[..., Stepper]) -> None:
    small, large = Task(), Task()
    result = stepper(small, accumulate=2)([batch("a", "b"), batch("c", "d")], lr=0.1, norms_by_module=False, stop=False)
    assert result.taken
    expected = stepper(large)([batch("a", "b", "c", "d")], lr=0.1, norms_by_module=False, stop=False)
    for a, b in zip(weights(small), weights(large), strict=True):
        torch.testing.assert_close(a, b)
    assert result.names == ("loss", "part")
    torch.testing.assert_close(result.values, expected.values)
    torch.testing.assert_close(result.losses.mean(), expected.values[0])


def test_batches_that_are_accumulated_know_of_each_other(stepper: Callable[..., Stepper]) -> None:
    task = Task()
    step = stepper(task, accumulate=2)
    counting = dataclasses.replace(step, count_positives=lambda batch: torch.tensor(10.0 * len(batch.images)))
    counting([batch("a", "b"), batch("c")], lr=0.1, norms_by_module=False, stop=False)
    assert task.told == [(30, 2), (30, 2)]
    counting([batch("a")], lr=0.1, norms_by_module=False, stop=False)
    step([batch("a"), batch("b")], lr=0.1, norms_by_module=False, stop=False)
    assert task.told[2] is None, "a batch that is the step"
    assert task.told[3:] == [(0, 2), (0, 2)], "a task that has no positives"


def test_clipping_keeps_the_direction_and_norms_are_those_before(stepper: Callable[..., Stepper]) -> None:
    free, clipped = Task(), Task()
    start = weights(free)
    stepper(free)([batch("a")], lr=1.0, norms_by_module=False, stop=False)
    result = stepper(clipped, clip=0.01)([batch("a")], lr=1.0, norms_by_module=True, stop=False)
    moves = [a - b for a, b in zip(weights(free), start, strict=True)]
    norm = torch.cat([m.flatten() for m in moves]).norm()
    for a, b, move in zip(weights(clipped), start, moves, strict=True):
        torch.testing.assert_close(a - b, move * 0.01 / norm, rtol=1e-3, atol=1e-6)
    assert result.norms["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-4)
    by_module = result.norms["grad_norm/backbone"] ** 2 + result.norms["grad_norm/head"] ** 2
    assert by_module.sqrt().item() == pytest.approx(norm.item(), rel=1e-4)


def test_norms_of_modules_without_gradients_are_left_out() -> None:
    task = Task()
    task.detector["head"](torch.ones(1, 4)).sum().backward()
    assert list(gradient_norms(dict(task.detector.named_children()))) == ["grad_norm/head"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_loss_changes_nothing(stepper: Callable[..., Stepper], value: float) -> None:
    task = Task()
    task.spoil = lambda loss: loss * value
    take = stepper(task, accumulate=2)
    take([batch("a"), batch("b")], lr=0.1, norms_by_module=False, stop=False)
    before, momentum = weights(task), [s["momentum_buffer"].clone() for s in take.optimizer.state.values()]
    result = take([batch("a"), batch("b", spoilt=True)], lr=0.1, norms_by_module=False, stop=False)
    assert (result.taken, result.bad) == (False, True)
    assert all(torch.equal(a, b) for a, b in zip(weights(task), before, strict=True))
    after = [s["momentum_buffer"] for s in take.optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(after, momentum, strict=True))
    assert take([batch("a"), batch("b")], lr=0.1, norms_by_module=False, stop=False).taken


def test_a_bad_gradient_of_a_good_loss_changes_nothing(stepper: Callable[..., Stepper]) -> None:
    task = Task()
    # sqrt has no finite slope at 0
    task.spoil = lambda loss: loss + (loss - loss.detach()).abs().sqrt()
    before = weights(task)
    result = stepper(task)([batch("a", spoilt=True)], lr=0.1, norms_by_module=False, stop=False)
    assert (result.taken, result.bad) == (False, True)
    assert torch.isfinite(result.losses).all()
    assert all(torch.equal(a, b) for a, b in zip(weights(task), before, strict=True))


@pytest.mark.parametrize("stop", [False, True])
def test_the_verdict(stop: bool) -> None:
    nan, one = torch.tensor(float("nan")), torch.tensor(1.0)
    with accelerated() as accelerator:
        verdicts = {
            (bool(loss.isnan()), bool(norm.isnan())): agree(
                accelerator, losses=torch.stack([one, loss]), grad_norm=norm, stop=stop
            )
            for loss in (one, nan)
            for norm in (one, nan)
        }
    for (bad_loss, bad_gradient), verdict in verdicts.items():
        assert verdict == (not bad_loss, not bad_gradient, stop)
        assert verdict.finite == (not bad_loss and not bad_gradient)


def test_the_error_names_the_images_of_the_bad_batch_alone() -> None:
    batches = [batch("good"), batch("bad1", "bad2")]
    nan = float("nan")
    with accelerated() as accelerator:
        error = too_many_bad_steps(accelerator, steps=3, batches=batches, losses=torch.tensor([1.0, nan]), step=40)
        assert "step 40: the loss is not finite for the 3rd step in a row" in str(error)
        assert "bad1.jpg, bad2.jpg" in str(error)
        assert "good" not in str(error)
        error = too_many_bad_steps(accelerator, steps=11, batches=batches, losses=torch.tensor([1.0, 2.0]), step=40)
        assert "the gradient is not finite for the 11th step" in str(error)
        assert "good.jpg, bad1.jpg, bad2.jpg" in str(error)
        many = [batch(*(f"i{n}" for n in range(20)))]
        error = too_many_bad_steps(accelerator, steps=1, batches=many, losses=torch.tensor([nan]), step=1)
        assert "i11.jpg and 8 more" in str(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_out_of_memory_says_the_shapes(stepper: Callable[..., Stepper], error: Exception) -> None:
    task = Task()

    def fail(loss: Tensor) -> Tensor:
        raise error

    task.spoil = fail
    with pytest.raises(UserError, match=r"2 image\(s\) padded to 32 x 32 .* train\.batch_size"):
        stepper(task)([batch("a", "b", spoilt=True)], lr=0.1, norms_by_module=False, stop=False)


def test_other_errors_pass(stepper: Callable[..., Stepper]) -> None:
    task = Task()

    def fail(loss: Tensor) -> Tensor:
        raise RuntimeError("a bug")

    task.spoil = fail
    with pytest.raises(RuntimeError, match="a bug"):
        stepper(task)([batch("a", spoilt=True)], lr=0.1, norms_by_module=False, stop=False)


def test_fp16_overflow_lowers_the_scale_and_is_no_bad_step() -> None:
    """On the CPU, where accelerate has no fp16, with a scaler of our own: the same arithmetic as on a GPU."""
    task = Task()
    with accelerated() as accelerator:
        model = accelerator.prepare_model(task)
        accelerator.scaler = torch.amp.GradScaler("cpu")
        accelerator.native_amp = True
        accelerator.state._mixed_precision = "fp16"
        optimizer = torch.optim.SGD([{"params": list(task.parameters()), "lr_factor": 1.0}], lr=1.0, fused=True)
        take = Stepper(
            accelerator=accelerator,
            model=model,
            optimizer=accelerator.prepare_optimizer(optimizer),
            modules=dict(task.detector.named_children()),
            clip=0.01,
            count_positives=no_positives,
        )
        scale, before = accelerator.scaler.get_scale(), weights(task)

        task.spoil = lambda loss: loss * 1e36  # finite, but not when it is scaled
        result = take([batch("a", spoilt=True)], lr=1.0, norms_by_module=False, stop=False)
        assert (result.taken, result.bad) == (False, False)
        assert accelerator.scaler.get_scale() == scale / 2

        task.spoil = lambda loss: loss * float("nan")
        result = take([batch("a", spoilt=True)], lr=1.0, norms_by_module=False, stop=False)
        assert (result.taken, result.bad) == (False, True)
        assert all(torch.equal(a, b) for a, b in zip(weights(task), before, strict=True))

        result = take([batch("a")], lr=1.0, norms_by_module=False, stop=False)
        assert result.taken
        moved = torch.cat([(a - b).flatten() for a, b in zip(weights(task), before, strict=True)]).norm()
        assert moved.item() == pytest.approx(0.01, rel=1e-3)  # the clip, thus the gradients were unscaled before it

        accelerator.scaler.update(1.0)  # nothing left to lower
        task.spoil = lambda loss: loss + (loss - loss.detach()).abs().sqrt()  # no finite slope at 0
        result = take([batch("a", spoilt=True)], lr=1.0, norms_by_module=False, stop=False)
        assert (result.taken, result.bad) == (False, True)
