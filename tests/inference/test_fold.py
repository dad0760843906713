from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from mimicdet.inference.fold import fold_batch_norm, settle_padding
from mimicdet.models.backbone import freeze_norms


def live_statistics(network: nn.Module) -> nn.Module:
    """Batch norm that does something: fresh from its initialisation it is the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.running_mean)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum("Norm" in type(module).__name__ for module in network.modules())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_every_batch_norm_of_usual_backbones_goes_and_nothing_changes(name: str, frozen: bool) -> None:
    torch.manual_seed(0)
    network = live_statistics(timm.create_model(name, features_only=True, pretrained=False, out_indices=(2, 3, 4)))
    network = (freeze_norms(network) if frozen else network).double()
    before = copy.deepcopy(network.state_dict())
    folded = fold_batch_norm(network)
    assert norms(network) > 0 == norms(folded)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        for found, expected in zip(folded(images), network(images), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224"])
def test_networks_without_batch_norm_come_back_the_same(name: str) -> None:
    options = {"strict_img_size": False} if "swin" in name else {}
    network = timm.create_model(name, features_only=True, pretrained=False, **options).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for found, expected in zip(fold_batch_norm(network)(images), network(images), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_mobilenetv3_small_075", "tf_efficientnet_b1"])
def test_settled_padding_is_what_would_have_been_worked_out(name: str) -> None:
    """For images whose sides are multiples of 32, such as every canvas; kernels 3 and 5 at stride 2 occur."""
    torch.manual_seed(0)
    network = live_statistics(timm.create_model(name, features_only=True, pretrained=False)).double()
    settled = settle_padding(copy.deepcopy(network))
    assert any(isinstance(module, Conv2dSame) for module in network.modules())
    assert not any(isinstance(module, Conv2dSame) for module in settled.modules())
    for shape in ((64, 96), (32, 160)):
        images = torch.randn(1, 3, *shape, dtype=torch.float64)
        with torch.no_grad():
            for found, expected in zip(settled(images), network(images), strict=True):
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (7, 4), (4, 2), (2, 2), ((3, 5), (2, 4))])
def test_settled_padding_of_one_layer(kernel: int | tuple[int, int], stride: int | tuple[int, int]) -> None:
    network = nn.Sequential(Conv2dSame(2, 3, kernel, stride=stride))
    images = torch.randn(1, 2, 32, 64)
    expected = network(images)
    assert torch.equal(settle_padding(network)(images), expected)
    assert not isinstance(network[0], Conv2dSame)


def test_a_kernel_smaller_than_its_stride_is_left_alone() -> None:
    network = settle_padding(nn.Sequential(Conv2dSame(2, 3, 1, stride=2)))
    assert isinstance(network[0], Conv2dSame)


class Twice(nn.Module):
    """A convolution whose output is read beside its batch norm, one that is called twice, a norm after a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.shared, self.shared_norm = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4, affine=False)
        self.late_norm = nn.BatchNorm2d(4)
        self.last, self.last_norm = nn.Conv2d(4, 5, 1, groups=1), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.first_norm(x)
        x = self.shared_norm(self.shared(self.shared(x)))
        return self.last_norm(self.last(self.late_norm(x.relu())))


def test_only_what_nothing_else_reads_is_folded() -> None:
    torch.manual_seed(0)
    network = live_statistics(Twice()).double()
    folded = fold_batch_norm(network)
    assert [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)] == [
        "first_norm",
        "shared_norm",
        "late_norm",
    ]
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-10, atol=1e-10)


class Branching(Twice):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


def test_what_cannot_be_traced_stays_as_it_is() -> None:
    network = live_statistics(Branching()).double()
    x = torch.rand(1, 3, 5, 5, dtype=torch.float64)
    assert norms(fold_batch_norm(network)) == norms(network)
    torch.testing.assert_close(fold_batch_norm(network)(x), network(x), rtol=0, atol=0)
