"""The script runs from end to end and writes what it says; how fast anything is, no test can say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "latency.py"


def test_rows_json_and_picture(tmp_path: Path) -> None:
    file, picture = tmp_path / "rows.json", tmp_path / "rows.png"
    done = subprocess.run(
        [
            sys.executable,
            SCRIPT,
            "--backbone",
            "lite0",
            "--size",
            "64x96",
            "--rounds",
            "1",
            "--peer",
            "retinanet",
            "--device",
            "cpu",
            "--json",
            file,
            "--png",
            picture,
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text())
    rows = {(row["model"], row["mode"]): row for row in content["rows"]}
    for mode in ("eager", "treated"):
        ours = rows["mimicdet", mode]
        assert (ours["backbone"], ours["device"], ours["precision"], ours["batch"]) == ("lite0", "cpu", "float32", 1)
        assert (ours["height"], ours["width"], ours["ratio"]) == (64, 96, 1)
        for other in ("retinanet", "backbone + pyramid"):
            row = rows[other, mode]
            # One round only: the median of ratios is the ratio of medians, but for the digits that are written
            assert abs(row["ratio"] - ours["median_ms"] / row["median_ms"]) < 1e-3
    stages = [row for (name, _), row in rows.items() if name.startswith("mimicdet:") and "dense" not in name]
    assert abs(sum(row["ratio"] for row in stages) - 1) < 1e-3
    assert content["machine"]["versions"]["torch"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "retinanet" in done.stdout
