"""A description that nobody could have written is refused with a sentence, at once and without memory."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from mimicdet import Detector
from mimicdet.build import build_model, load_model
from mimicdet.config import InferenceSettings, MimicDetSettings
from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.settings_file import load_settings
from mimicdet.weights.folder import read_description

SETTINGS = MimicDetSettings.Model(
    backbone="test_resnet", weights="random", pyramid_channels=8, head_channels=8, head_features=8
)
CATEGORIES = (Category(7, "cat"), Category(-2, "Ölfaß 🐟"), Category(2**63 - 1, "newt"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    model = build_model(SETTINGS, num_classes=3)
    inference = InferenceSettings(shorter_side=64, longer_side=64)
    Detector(model=model, categories=CATEGORIES, settings=SETTINGS, inference=inference).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change(folder: Path, where: str, value: Any) -> None:
    file = folder / "model.json"
    content = part = json.loads(file.read_text())
    *parents, last = where.split(".")
    for key in parents:
        part = part[int(key) if isinstance(part, list) else key]
    part[int(last) if isinstance(part, list) else last] = value
    file.write_text(json.dumps(content))


def refusal(folder: Path) -> str:
    """Loads, quickly and with little memory; returns the sentence."""
    most, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(UserError) as caught:
        load_model(folder)
    assert time.perf_counter() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 500_000  # kB
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ids_of_any_64_bits_are_fine(folder: Path) -> None:
    assert load_model(folder).categories == CATEGORIES


@pytest.mark.parametrize(
    ("where", "value", "found"),
    [
        ("categories.0.id", 2.7, "categories: 0.id: Input should be a valid integer"),
        ("categories.0.id", 10**30, "categories: 0.id"),
        ("categories.0.id", 2**63, "categories: 0.id"),
        ("categories.0.id", "7", "categories: 0.id"),
        ("categories.0.id", True, "categories: 0.id"),
        ("categories.0.id", None, "categories: 0.id"),
        ("categories.0.id", -2, "categories: two classes have the id -2"),
        ("categories.0.name", "newt", "categories: two classes have the name 'newt'"),
        ("categories.0.name", None, "categories: 0.name: Input should be a valid string"),
        ("categories.0.name", 3, "categories: 0.name"),
        ("categories.0.name", " ", "categories: 0.name"),
        ("categories", [], "categories: "),
        ("categories", {"a": 1}, "categories: "),
        ("format_version", 1.5, "format_version: Input should be a valid integer"),
        ("format_version", 0, "format_version"),
        ("format_version", "1", "format_version"),
        ("format_version", float("inf"), "Infinity is no finite number"),
        ("model.offset_grad", float("nan"), "NaN is no finite number"),
        ("extra", [1], "extra: Input should be a valid dictionary"),
        ("model", "x", "model: Input should be a valid dictionary"),
        ("family", 3, "family: Input should be a valid string"),
        ("model.head_features", 10**12, "does not fit its model.json"),
        ("model.head_channels", 10**6, "does not fit its model.json"),
        ("model.pyramid_channels", 10**30, "describes no model that can be built"),
        ("model.pyramid_channels", -1, "setting 'pyramid_channels' is not understood"),
        ("model.levels", list(range(3, 10_000)), "must not go beyond 12"),
        ("model.levels", list(range(3, 200_000)), "model: more than 100,000 letters are no settings"),
        ("model.kernel_size", 10**5, "setting 'kernel_size'"),
        ("model.backbone", "resnet50", "does not fit its model.json"),
        ("model.backbone", "hf-hub:somebody/something", "does not know the network"),
        ("inference.positions", 10**12, "setting 'positions' is not understood"),
        ("inference.max_detections", 10**12, "setting 'max_detections' is not understood"),
        ("inference.shorter_side", 10**9, "setting 'shorter_side' is not understood"),
        ("inference.longer_side", 10**9, "setting 'longer_side' is not understood"),
        ("inference.batch_size", 10**9, "setting 'batch_size' is not understood"),
        ("inference.score_threshold", [0.5], "setting 'score_threshold' is not understood"),
        ("inference.shorter_side", 64.5, "setting 'shorter_side' is not understood"),
    ],
)
def test_absurd_values_are_refused(folder: Path, where: str, value: Any, found: str) -> None:
    change(folder, where, value)
    assert found in refusal(folder)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"format_version": 1e999}', "1e999 is no finite number"),
        (b'{"format_version": ' + b"9" * 5000 + b"}", "is broken"),
        (b"[" * 100_000, "is broken"),
        (b'{"format_version": 1, "family": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001, "is broken"),
        (b'{"format_version": 1}', "family: Field required"),
        (b'{"family": "\\ud800', "is broken"),
        (b'{"format_version": 1, "format_version": 1}', "two fields 'format_version', of which only one could be read"),
        (b'{"format_version": 1, "model": {"a": 1, "a": 2}}', "one object has two fields 'a'"),
    ],
)
def test_what_no_program_writes_is_refused(folder: Path, content: bytes, found: str) -> None:
    (folder / "model.json").write_bytes(content)
    assert found in refusal(folder)


@pytest.mark.parametrize(
    ("where", "value", "found"),
    [
        ("categories", "[" + "0," * (2 * 10**6) + "0]", "categories: 0: Input should be a valid dictionary"),
        ("inference", "{" + ",".join(f'"{key:x}":0' for key in range(100_000)) + "}", "are no settings"),
        ("model", '{"levels":[' + '"",' * 10**6 + "1]}", "are no settings"),
    ],
)
def test_millions_of_faults_take_no_longer_than_one(folder: Path, where: str, value: str, found: str) -> None:
    change(folder, where, "?")
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text())).replace('"?"', value))
    assert found in refusal(folder)


def test_sixty_thousand_classes_fit(folder: Path) -> None:
    change(folder, "categories", [{"id": number, "name": f"class {number}"} for number in range(60_000)])
    assert len(read_description(folder).categories) == 60_000


def test_images_have_no_more_pixels_than_memory_takes(folder: Path) -> None:
    change(folder, "inference.shorter_side", 4096)
    change(folder, "inference.longer_side", 4096)
    detector = Detector.from_pretrained(folder)
    change(folder, "inference.longer_side", 4097)
    told = "inference.shorter_side 4096 and inference.longer_side 4097 make more than 16,777,216 pixels; make them"
    assert told in refusal(folder)
    detector.inference = detector.inference.model_copy(update={"longer_side": 4097})
    with pytest.raises(UserError, match=r"^inference.shorter_side 4096 .* tile by tile with --tile"):
        detector(torch.zeros(3, 8, 8))
    with pytest.raises(UserError, match=r"data.shorter_side 5000 and data.longer_side 5000 make .* `mimicdet cut`"):
        load_settings("small", {"data.shorter_side": [64, 5000], "data.longer_side": 5000})
    with pytest.raises(UserError, match=r"inference.shorter_side 60000 and inference.longer_side 60000 make .* --tile"):
        load_settings("small", {"inference.shorter_side": 60000, "inference.longer_side": 60000})


def test_a_description_of_a_gigabyte_is_not_read(folder: Path) -> None:
    with (folder / "model.json").open("r+b") as file:
        file.truncate(2**30)
    assert "1,073,741,824 bytes are more than any description has" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder: Path, value: float) -> None:
    file = folder / "model.safetensors"
    state = load(file.read_bytes())
    name = "s_head.classifier.weight"
    state[name].view(-1)[5] = value
    save_file(state, file)
    assert f"the entry '{name}' holds values that are infinite or no numbers" in refusal(folder)
    save_file({key: torch.full_like(tensor, value) for key, tensor in state.items()}, file)
    assert "holds values that are infinite or no numbers, with which nothing is found" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_a_type_without_fractions_are_refused(
    folder: Path, dtype: torch.dtype, recwarn: pytest.WarningsRecorder
) -> None:
    file = folder / "model.safetensors"
    state = load(file.read_bytes())
    for names in (list(state), ["s_head.classifier.weight"]):
        save_file(state | {name: state[name].to(dtype) for name in names}, file)
        assert f"' is of {dtype}, where floating-point numbers belong; restore" in refusal(folder)
    assert not recwarn.list, "such as of imaginary parts that are left out"


def test_weights_of_other_precisions_are_read(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load(file.read_bytes())
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        save_file({k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}, file)
        load_model(folder)


def test_variances_below_zero_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load(file.read_bytes())
    name = next(key for key in state if key.endswith("running_var"))
    state[name][0] = -1
    save_file(state, file)
    assert f"the entry '{name}' holds variances below zero" in refusal(folder)


@pytest.mark.parametrize("statistics", [False, True])
def test_weights_that_are_all_zero_are_refused(folder: Path, statistics: bool) -> None:
    file = folder / "model.safetensors"
    state = load(file.read_bytes())
    kept = {k for k, v in state.items() if statistics and (v.dim() < 2 or k.endswith((".mean", ".std")))}
    save_file({k: v if k in kept else torch.zeros_like(v) for k, v in state.items()}, file)
    assert "model.safetensors: all weights are zero, with which nothing is found" in refusal(folder)
