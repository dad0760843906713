"""The moving average against a literal one."""

from __future__ import annotations

import torch
from torch import nn

from mimicdet.engine.optim import moving_average


def test_average_against_a_literal_one() -> None:
    task = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = moving_average(task, 0.5)
    expected = None
    for update in range(12):
        with torch.no_grad():
            task[0].weight.copy_(torch.randn(2, 2))
        task(torch.randn(3, 2))  # moves the batch-norm statistics
        weight = task[0].weight.detach().clone()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
        average.update_parameters(task)
    assert expected is not None
    torch.testing.assert_close(average.module[0].weight.detach(), expected)
    assert torch.equal(average.module[1].running_mean, task[1].running_mean)
    assert not average.module.training
    assert not any(p.requires_grad for p in average.parameters())
    assert task.training
    assert all(p.requires_grad for p in task.parameters())


def test_average_continues_from_its_state() -> None:
    task = nn.Linear(2, 2)
    whole, first = moving_average(task, 0.9), moving_average(task, 0.9)
    for average in (whole, first):
        average.update_parameters(task)
    second = moving_average(nn.Linear(2, 2), 0.9)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        task.weight.add_(1)
    for average in (whole, second):
        average.update_parameters(task)
    assert torch.equal(whole.module.weight, second.module.weight)
