"""Numbers never replace the files of a model that is read, and may replace earlier numbers beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimicdet.cli import main


def test_the_description_of_an_exported_file_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, description = tmp_path / "m.onnx", tmp_path / "m.onnx.json"
    model.write_bytes(b"?")
    description.write_text("{}")
    for words in (["bench", str(model)], ["eval", str(model), "--data", str(tmp_path / "cells")]):
        assert main([*words, "--json", str(description)]) == 2
        assert "--json would overwrite it: name another file" in capsys.readouterr().err
        assert description.read_text() == "{}"
