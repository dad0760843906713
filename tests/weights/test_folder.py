from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mimicdet import files
from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.models.mimicdet import MimicDet
from mimicdet.weights.folder import load_weights, read_description, save_model
from tests.fakes.tiny import tiny_detector, tiny_settings, tiny_task

CATEGORIES = (Category(7, "cat"), Category(2, "Ölfaß 🐟"), Category(91, "newt"))
MODEL = {"family": "mimicdet", "backbone": "made-up", "levels": [3, 4, 5]}
INFERENCE = {"positions": 30}


def save(folder: Path, model: nn.Module, **changes: object) -> None:
    options = {"model_settings": MODEL, "inference": INFERENCE, "categories": CATEGORIES} | changes
    save_model(folder, model, **options)  # type: ignore[arg-type]


def detector(seed: int = 0, **options: object) -> MimicDet:
    return tiny_detector(seed=seed, dtype=torch.float32, **options)  # type: ignore[arg-type]


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    model = detector()
    save(tmp_path / "a" / "model", model, extra={"step": 12, "AP": 0.25})
    found = read_description(tmp_path / "a" / "model")
    assert found.model == MODEL
    assert found.inference == INFERENCE
    assert found.categories == CATEGORIES
    assert found.extra == {"step": 12, "AP": 0.25}
    assert found.family == "mimicdet"
    other = detector(seed=1)
    load_weights(tmp_path / "a" / "model", other)
    for key, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), header=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_never_gives_other_weights(
    saved: tuple[MimicDet, Path], position: float, bit: int, header: bool
) -> None:
    model, folder = saved
    content = bytearray((folder / "model.safetensors").read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    at = int(position * end) if header else end + int(position * (len(content) - end))
    content[at] ^= 1 << bit
    with tempfile.TemporaryDirectory() as other:
        shutil.copy(folder / "model.json", other)
        (Path(other) / "model.safetensors").write_bytes(content)
        loaded = detector(seed=1)
        if not header:
            with pytest.raises(UserError, match=r"model\.safetensors has changed since it was written"):
                load_weights(other, loaded)
            return
        with contextlib.suppress(UserError):
            load_weights(other, loaded)  # the flip may have met the checksum's own name, or white space
            for key, value in loaded.state_dict().items():
                assert torch.equal(value, model.state_dict()[key]), key


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[MimicDet, Path]:
    model, folder = detector(), tmp_path_factory.mktemp("saved")
    save(folder, model)
    return model, folder


def test_weights_of_other_tools_need_no_checksum(tmp_path: Path) -> None:
    model, loaded = detector(), detector(seed=1)
    save(tmp_path, model)
    state = safetensors.torch.load((tmp_path / "model.safetensors").read_bytes())
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    load_weights(tmp_path, loaded)
    assert torch.equal(next(loaded.parameters()), next(model.parameters()))


def test_the_folder_holds_two_files_that_others_can_read(tmp_path: Path) -> None:
    model = detector()
    save(tmp_path, model)
    assert sorted(os.listdir(tmp_path)) == ["model.json", "model.safetensors"]
    before = (tmp_path / "model.safetensors").read_bytes()
    for _ in range(5):
        save(tmp_path, model)
        assert (tmp_path / "model.safetensors").read_bytes() == before
    state = safetensors.torch.load((tmp_path / "model.safetensors").read_bytes())
    assert state.keys() == model.state_dict().keys()
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as opened:
        checksum = opened.metadata()["sha256"]
        assert opened.metadata() == {"format": "pt", "sha256": checksum}
    content = (tmp_path / "model.safetensors").read_bytes()
    tensors = content[8 + int.from_bytes(content[:8], "little") :]
    assert checksum == hashlib.sha256(tensors).hexdigest()
    content = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert content["format_version"] == 1
    assert content["categories"][1] == {"id": 2, "name": "Ölfaß 🐟"}


@pytest.mark.parametrize("options", [{"kernel_size": 3, "finest_kernel_size": 3}, {"paths": "single"}], ids=str)
@pytest.mark.parametrize("alignment", ["guided", "deformable", "conv"])
def test_modules_with_two_names_are_written_once_and_stay_shared(
    tmp_path: Path, options: dict[str, object], alignment: str
) -> None:
    model, other = (detector(seed=seed, alignment=alignment, **options) for seed in (0, 1))
    save(tmp_path, model)
    state = safetensors.torch.load((tmp_path / "model.safetensors").read_bytes())
    assert len(state) < len(model.state_dict())
    assert sum(value.numel() for value in state.values()) == sum(
        value.numel() for value in [*model.parameters(), *model.trunk.buffers()]
    )
    load_weights(tmp_path, other)
    for key, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_a_shipped_model_holds_nothing_of_the_teacher(tmp_path: Path) -> None:
    """And a model trained with a T-head has the entries of one trained without."""
    task = tiny_task(tiny_settings(), dtype=torch.float32)
    assert any(key.startswith("t_head.") for key in task.state_dict())
    assert any(key.startswith("finer_level.") for key in task.state_dict())
    save(tmp_path, task.detector)
    keys = safetensors.torch.load((tmp_path / "model.safetensors").read_bytes()).keys()
    assert not [key for key in keys if "t_head" in key or "finer_level" in key or "p2" in key]
    alone = tiny_task(tiny_settings(task="detect"), dtype=torch.float32, finest=2).detector
    assert keys == alone.state_dict().keys()
    load_weights(tmp_path, alone)


def test_precision_is_kept(tmp_path: Path) -> None:
    save(tmp_path, detector().half())
    state = safetensors.torch.load((tmp_path / "model.safetensors").read_bytes())
    assert all(value.dtype == torch.float16 for value in state.values())
    other = detector(seed=1)
    load_weights(tmp_path, other)
    assert other.s_head.align.weight.dtype == torch.float32


def test_weights_that_are_not_contiguous_are_written(tmp_path: Path) -> None:
    model, other = detector().to(memory_format=torch.channels_last), detector(seed=1)
    save(tmp_path, model)
    load_weights(tmp_path, other)
    assert torch.equal(other.s_head.align.weight, model.s_head.align.weight)


# Crashes


def test_a_crash_between_the_two_files_leaves_a_model_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, detector(seed=0), extra={"step": 1})
    real = files.replace_file

    def crash(file: Path, content: bytes) -> None:
        if file.name == "model.json":
            raise KeyboardInterrupt
        real(file, content)

    monkeypatch.setattr(files, "replace_file", crash)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, detector(seed=1), extra={"step": 2})
    assert sorted(os.listdir(tmp_path)) == ["model.json", "model.safetensors"]
    assert read_description(tmp_path).categories == CATEGORIES
    loaded = detector(seed=2)
    load_weights(tmp_path, loaded)
    assert torch.equal(loaded.s_head.align.weight, detector(seed=1).s_head.align.weight)


def test_a_crash_before_the_weights_are_whole_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, detector(seed=0))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be written \(No space left on device\)"):
        save(tmp_path, detector(seed=1))
    monkeypatch.undo()
    loaded = detector(seed=2)
    load_weights(tmp_path, loaded)
    assert torch.equal(loaded.s_head.align.weight, detector(seed=0).s_head.align.weight)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/model cannot be made"):
        save(tmp_path / "file" / "model", detector())
    with pytest.raises(UserError, match="file cannot be made"):
        save(tmp_path / "file", detector())


# Broken folders


def broken(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "model.json").read_text())
    for key, value in changes.items():
        if value is None:
            del content[key]
        else:
            content[key] = value
    (folder / "model.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"format_version": 99}, "has format version 99, newer than 1; update mimicdet"),
        ({"format_version": 99, "categories": None, "inference": None}, "update mimicdet"),
        ({"format_version": "new"}, "is broken"),
        ({"format_version": None}, "is broken"),
        ({"family": None}, "is broken"),
        ({"model": 3}, "is broken"),
        ({"inference": [3]}, "is broken"),
        ({"categories": 3}, "is broken"),
        ({"categories": [3]}, "is broken"),
        ({"categories": [{"id": "x", "name": "cat"}]}, "is broken"),
        ({"categories": [{"id": 1}]}, "is broken"),
        ({"extra": 3}, "is broken"),
    ],
    ids=str,
)
def test_broken_descriptions(tmp_path: Path, changes: dict[str, object], found: str) -> None:
    save(tmp_path, detector())
    broken(tmp_path, **changes)
    with pytest.raises(UserError, match=r"model\.json") as caught:
        read_description(tmp_path)
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"{", "it is cut off"),
        (b'{"family": "mimic', "it is cut off"),
        (b'{\n"family": nothing}', "it is no JSON at line 2"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number in it has too many digits"),
        (b'{"a": 1e999}', "1e999 is no finite number"),
        (b"\xff\xfe\x00", "it is no text in UTF-8"),
        *((content, "it should hold names and values in braces") for content in (b"[]", b"3", b"null")),
    ],
)
def test_descriptions_that_are_no_json_object(tmp_path: Path, content: bytes, why: str) -> None:
    save(tmp_path, detector())
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"model\.json is broken \({why}\); save or download the model again"):
        read_description(tmp_path)


def test_a_description_without_extra_is_fine(tmp_path: Path) -> None:
    save(tmp_path, detector())
    broken(tmp_path, extra=None)
    assert read_description(tmp_path).extra == {}


@pytest.mark.parametrize("gone", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, gone: str) -> None:
    save(tmp_path, detector())
    (tmp_path / gone).unlink()
    with pytest.raises(UserError, match=r"is not a model folder: it needs model\.json and model\.safetensors"):
        read_description(tmp_path)


def test_a_run_folder_is_told_from_a_model_folder(tmp_path: Path) -> None:
    save(tmp_path / "run" / "model", detector())
    with pytest.raises(UserError, match=r"looks like a run folder, its model is .*run/model$"):
        read_description(tmp_path / "run")
    with pytest.raises(UserError, match="nowhere is not a model folder"):
        read_description(tmp_path / "nowhere")


def test_broken_weights(tmp_path: Path) -> None:
    model = detector()
    save(tmp_path, model)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1], b"x" * 1000):
        file.write_bytes(content)
        why = "it is no file of safetensors" if content.startswith(b"x") else "it is cut off"
        with pytest.raises(
            UserError, match=rf"model\.safetensors is broken \({why}\); save or download the model again"
        ):
            load_weights(tmp_path, model)


@pytest.mark.parametrize("difference", ["missing", "unknown", "shape"])
def test_weights_of_another_model_change_nothing(tmp_path: Path, difference: str) -> None:
    model = detector()
    save(tmp_path, model)
    state = safetensors.torch.load((tmp_path / "model.safetensors").read_bytes())
    name = {"missing": "s_head.align.bias", "unknown": "t_head.extra", "shape": "s_head.align.weight"}[difference]
    if difference == "missing":
        del state[name]
    else:
        state[name] = torch.zeros(2, 3)
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    other = detector(seed=1)
    with pytest.raises(UserError, match=rf"does not fit its model\.json: 1 entries differ, the first is '{name}'"):
        load_weights(tmp_path, other)
    for key, value in other.state_dict().items():
        assert torch.equal(value, detector(seed=1).state_dict()[key])


def test_a_folder_whose_path_is_no_text_gets_no_model(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(UserError, match=r"caf.+no UTF-8; choose another folder"):
        save(folder, detector())
    assert not folder.exists()
