from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn

from mimicdet.models.backbone import FrozenNorm, freeze_norms


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "regnetx_002"])
def test_a_frozen_network_gives_what_timms_and_its_own_evaluation_mode_give(name: str) -> None:
    """Values, gradients of the convolutions, and the names in the state dict."""
    torch.manual_seed(0)
    network = timm.create_model(name, features_only=True, pretrained=False).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    evaluated = copy.deepcopy(network).eval()
    theirs = freeze_batch_norm_2d(copy.deepcopy(network)).train()
    ours = freeze_norms(network).train()
    assert any(isinstance(module, FrozenNorm) for module in ours.modules())
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    gradients = []
    for other in (evaluated, theirs, ours):
        outputs = other(images)
        sum(output.square().mean() for output in outputs).backward()
        weights = [m.weight for m in other.modules() if isinstance(m, nn.Conv2d)]
        gradients.append((outputs, [weight.grad for weight in weights]))
    for expected in gradients[:2]:
        for found, wanted in zip(gradients[2], expected, strict=True):
            for a, b in zip(found, wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_it_keeps_the_precision_of_the_features() -> None:
    norm = FrozenNorm(freeze_batch_norm_2d(nn.BatchNorm2d(4)))
    assert norm(torch.randn(1, 4, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert not list(norm.parameters())
