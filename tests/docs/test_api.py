"""What ``from mimicdet import ...`` gives, and how it says what is wrong."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mimicdet
from mimicdet import (
    Detector,
    UserError,
    evaluate,
    export_model,
    load_dataset,
    load_model,
    load_settings,
    train,
)
from tests.docs.pages import ROOT
from tests.docs.workspace import small_settings

PUBLIC = (Detector, evaluate, export_model, load_dataset, load_model, load_settings, train)


def loaded_by(code: str) -> set[str]:
    """The modules that a new process has after ``code``."""
    words = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    return set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())


def test_the_package_itself_is_light_and_the_detector_knows_no_laboratory() -> None:
    alone, detector = loaded_by("import mimicdet"), loaded_by("from mimicdet import Detector")
    assert not {"torch", "pydantic", "yaml", "mimicdet.predict"} & alone
    assert "torch" in detector
    for part in ("lab", "engine", "tasks", "commands"):
        assert not [name for name in detector if name.startswith(f"mimicdet.{part}")], part
    assert "torch" not in loaded_by("from mimicdet import load_settings, UserError")


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: public.__name__)
def test_each_is_documented_with_an_example_and_on_the_page(public: Any) -> None:
    name = public.__name__
    text = inspect.getdoc(public) or ""
    assert re.search(rf"```python\n(?:import torch\n)?from mimicdet import [\w, ]*\b{name}\b", text)
    assert "Args:" in text
    assert name in mimicdet.__all__ and f"mimicdet.{name}\n" in (ROOT / "docs" / "api.md").read_text()  # noqa: PT018
    for function in [public] if name != "Detector" else [Detector.from_pretrained, Detector.stream]:
        assert "Raises:" in (inspect.getdoc(function) or "")
        assert "return" in function.__annotations__


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Detecter'"):
        _ = mimicdet.Detecter  # type: ignore[attr-defined]


def test_from_data_to_a_file(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path and its two data sets train the same; numbers are those of the run, whoever measures.

    Every form of a model is exported as the same network, with the same settings.
    """
    settings = small_settings("small")
    result = train(settings=settings, train_data="cells", out="runs/one")
    again = train(
        settings=settings, train_data=load_dataset("cells"), val_data=load_dataset("cells", "val"), out="runs/two"
    )
    weights = [(one.model / "model.safetensors").read_bytes() for one in (result, again)]
    assert weights[0] == weights[1]
    assert result.best is not None and result.run == Path("runs/one")  # noqa: PT018
    for metrics in (evaluate(result.model, "cells"), evaluate(Detector.from_pretrained(result.model), "cells")):
        assert metrics["AP"] == result.best["AP"]
    taken: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr("mimicdet.api.export_detector", lambda network, _, **how: taken.append((network, how)))
    for model in (result.model, load_model(result.model), Detector.from_pretrained(result.model)):
        export_model(model, "1.pt2", format="torch")
    (first, how), *others = taken
    for network, its_how in others:
        assert all(its_how[key] == how[key] for key in ("inference", "categories"))
        assert network.state_dict().keys() == first.state_dict().keys()
        assert all(torch.equal(value, first.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.slow
def test_an_exported_file_is_measured_as_its_model_is(workspace: Path) -> None:
    assert all(found.is_equal for found in export_model("runs/cells/model", "0.pt2", format="torch"))
    expected = evaluate("runs/cells/model", "cells")["AP"]
    assert evaluate("0.pt2", "cells", trust=True)["AP"] == pytest.approx(expected, abs=1e-3)
    assert evaluate("0.pt2", "cells", limit=20, trust=True).detections == 60  # of three images


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: load_settings("smal"), "there is no preset 'smal'; did you mean 'small'"),
        (lambda: load_settings("small", {"optim.rl": 1.0}), "'optim.rl' among the changes; did you mean 'optim.lr'"),
        (
            lambda: load_settings("small", {"optim.lr": "fast"}),
            "'optim.lr' among the changes is \"fast\"; it should",
        ),
        (lambda: load_settings(config="nosuch.yaml"), "settings file nosuch.yaml does not exist"),
        (lambda: load_dataset("nosuch"), "there is no such file or folder"),
        (lambda: load_dataset("cells", "tset"), "did you mean 'test'"),
        (lambda: load_model("cells"), "cells"),
        (lambda: Detector.from_pretrained("nosuch"), "nosuch"),
        (lambda: train(settings=load_settings("small"), train_data="nosuch", out="x"), "there is no such file"),
        (lambda: train(settings=load_settings("small"), train_data="cells", out="photo.jpg"), "photo.jpg is a file"),
        (lambda: evaluate("runs/cells/model", "cells", limit=10), "limit must be more than 10, not 10"),
        (lambda: evaluate("runs/cells/model", "cells", tile=0), "tile must be a side in pixels from 32 up, not 0"),
        (lambda: evaluate("runs/cells/model", "cells", tile=40, overlap=1), "overlap must be a share"),
        (lambda: evaluate("runs/cells/model", renamed("cells")), "the model does not know the class 'blue'"),
        (lambda: export_model("runs/cells/model", "x.xml"), "in onnx form must end with .onnx"),
        (lambda: export_model("runs/cells/model", "no/x.onnx"), "no: there is no such folder"),
        (lambda: export_model("runs/cells/model", "x.pt2", format="torch", precision="fp16"), "fp16 needs format onnx"),
        (lambda: export_model("runs/cells/model", "x.onnx", precision="int8"), "int8 needs a data set"),
        (lambda: export_model("nosuch", "x.onnx"), "nosuch"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(wrong: Callable[[], Any], message: str, workspace: Path) -> None:
    with pytest.raises(UserError) as told:
        wrong()
    assert message in str(told.value)


def renamed(path: str) -> Any:
    dataset = load_dataset(path, "val")
    first, *others = dataset.categories
    return dataclasses.replace(dataset, categories=(dataclasses.replace(first, name="blue"), *others))
