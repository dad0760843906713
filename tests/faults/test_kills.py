"""A few kills, full disks and samples of ``make test-faults``; and that the trials find what they look for."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.faults import kills, works
from tests.faults.full_disk import _full_at
from tests.faults.kills import Straight, _killed_at, consequences, straight_run
from tests.faults.works import TRAIN, WORKS, Inputs

CONVERT = next(work for work in WORKS if work.name == "convert")


def test_a_training_that_is_killed_at_a_write_loses_nothing(inputs: Inputs, tmp_path: Path) -> None:
    """The undisturbed run is that of the inputs."""
    (tmp_path / "straight").mkdir()
    shutil.copytree(inputs.folder / "run", tmp_path / "straight" / "run")
    folder = tmp_path / "killed"
    folder.mkdir()
    straight = Straight(tmp_path / "straight", 0, 0)
    assert _killed_at(random.Random(0).randrange(30, 90))(TRAIN, inputs, folder, straight) is None
    assert consequences(TRAIN, inputs, folder, straight) is None


@pytest.mark.parametrize("how", ["kill", "full"])
def test_a_kill_or_a_full_disk_at_a_write_loses_nothing(inputs: Inputs, tmp_path: Path, how: str) -> None:
    straight = straight_run(CONVERT, inputs, tmp_path, how)
    for touch in random.Random(how).sample(range(1, straight.touches), 3):
        folder = tmp_path / str(touch)
        folder.mkdir()
        assert (_killed_at if how == "kill" else _full_at)(touch)(CONVERT, inputs, folder, straight) is None
        assert consequences(CONVERT, inputs, folder, straight) is None


def test_what_is_half_written_or_left_over_is_found(inputs: Inputs, tmp_path: Path) -> None:
    straight = straight_run(CONVERT, inputs, tmp_path)
    folder = tmp_path / "spoilt"
    folder.mkdir()
    (folder / ".out.123").write_text("left over")
    assert "leftovers" in (consequences(CONVERT, inputs, folder, straight) or "")
    (folder / ".out.123").unlink()
    assert consequences(CONVERT, inputs, folder, straight) is None
    xml = next((folder / "out" / "Annotations").glob("*.xml"))
    xml.write_text(xml.read_text().replace("<object>", "<object> "))
    assert "other content" in (consequences(CONVERT, inputs, folder, straight) or "")
    xml.write_text("<annotation>")
    assert "half-written" in (consequences(CONVERT, inputs, folder, straight) or "")


def test_a_signal_that_is_not_heeded_is_found(inputs: Inputs, tmp_path: Path) -> None:
    running = works.launch(CONVERT, inputs, tmp_path / "fine")
    assert kills._end_as_asked(running, 2) is None
    with patch.object(kills, "ENDS_WITHIN", 0.0):
        running = works.launch(TRAIN, inputs, tmp_path / "late")
        assert "no end" in (kills._end_as_asked(running, 15) or "")
