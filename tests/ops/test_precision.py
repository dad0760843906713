from __future__ import annotations

import pytest
import torch

from mimicdet.ops.precision import full_precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_becomes_float32_and_gradients_come_back(dtype: torch.dtype):
    half = torch.tensor([1.5, -2.0], dtype=dtype, requires_grad=True)
    full = full_precision(half)
    assert full.dtype == torch.float32
    assert full.tolist() == [1.5, -2.0]
    (full * 3).sum().backward()
    assert half.grad is not None
    assert half.grad.tolist() == [3, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_others_are_left_alone(dtype: torch.dtype):
    tensor = torch.ones(2, dtype=dtype)
    assert full_precision(tensor) is tensor
