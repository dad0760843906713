"""The scripts run from end to end and write what they say; how fast anything is, no test can say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
COMMON = {"model", "backbone", "device", "precision", "mode", "height", "width", "batch", "median_ms", "ratio"}


def rows_of(script: str, folder: Path, *options: str) -> tuple[list[dict[str, Any]], str]:
    file, picture = folder / "rows.json", folder / "rows.png"
    words = [sys.executable, SCRIPTS / script, "--rounds", "1", "--device", "cpu", "--json", file, "--png", picture]
    done = subprocess.run([*words, *options], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    content = json.loads(file.read_text())
    assert content["machine"]["versions"]["torch"]
    for row in content["rows"]:
        assert row.keys() >= COMMON
        assert row["median_ms"] >= 0
    return content["rows"], done.stdout


@pytest.mark.slow
def test_train_step(tmp_path: Path) -> None:
    rows, _ = rows_of("train_step.py", tmp_path, "--backbone", "lite0", "--size", "64x96", "--peer", "fcos")
    by_name = {row["model"]: row for row in rows}
    ours, fcos = by_name["mimicdet"], by_name["fcos"]
    assert ours["ratio"] == 1
    assert abs(fcos["ratio"] - ours["median_ms"] / fcos["median_ms"]) < 1e-3
    assert ours["peak_mib"] > 0
    assert fcos["peak_mib"] > 0
    assert set(by_name) >= {"mimicdet", "separate teacher", "fcos"}
    stages = [row for row in rows if ":" in row["model"]]
    assert len(stages) == 6
    assert abs(sum(row["ratio"] for row in stages) - 1) < 1e-3


@pytest.mark.slow
def test_export(tmp_path: Path) -> None:
    rows, shown = rows_of(
        "export.py", tmp_path, "--backbone", "lite0", "--size", "64x96", "--no-compiled", "--format", "torch"
    )
    assert [row["model"] for row in rows] == ["mimicdet", "as trained", "same arithmetic", "torch.export"]
    assert "torch.export / eager" in shown
    assert "boxes differ by up to" in shown


@pytest.mark.slow
def test_distill_step(tmp_path: Path) -> None:
    rows, shown = rows_of("distill_step.py", tmp_path, "--size", "64x96", "--batch", "1")
    assert rows[0]["model"] == "student alone"
    assert {"+ RM", "+ PFI", "+ RM + PFI", "teacher"} <= {row["model"] for row in rows}
    assert "+ RM + PFI / student alone: " in shown


@pytest.mark.slow
def test_scaling(tmp_path: Path) -> None:
    rows, _ = rows_of("scaling.py", tmp_path, "--workers", "0", "1")
    groups = {row["mode"] for row in rows}
    assert groups == {
        "detect, by area",
        "detect, by batch",
        "detect, by classes",
        "train, by classes",
        "train, by objects",
        "images, by workers",
        "images, by decoding",
    }
    for group in groups:
        first, *others = [row for row in rows if row["mode"] == group]
        assert first["ratio"] == 1
        assert others
