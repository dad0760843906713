"""Marks of image files: an exchanged file is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mimicdet.data import pixels
from mimicdet.data.pixels import file_marks
from mimicdet.errors import UserError


def written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def test_any_byte_of_a_small_set_counts_and_no_time(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20
    files = [written(tmp_path / name, content) for name in ("a", "b")]
    before = file_marks(files)
    assert before[0] == before[1]
    os.utime(files[0], (1, 1))
    assert file_marks(files) == before
    for place in (0, 1234, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        written(files[0], bytes(changed))
        now = file_marks(files)
        assert now[0] != before[0]
        assert now[1] == before[1]


def test_of_a_large_set_size_and_three_pieces_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "BUDGET", 600)  # 300 bytes of each of two: 3 times 100
    content = bytes(1000)
    files = [written(tmp_path / name, content) for name in ("a", "b")]
    before = file_marks(files)[0]
    told = []
    for place in range(1000):
        written(files[0], content[:place] + b"\1" + content[place + 1 :])
        if file_marks(files)[0] != before:
            told.append(place)
    assert told == [*range(100), *range(450, 550), *range(900, 1000)]
    written(files[0], content + b"\0")
    assert file_marks(files)[0] != before


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: cannot be read \(No such file or directory\)"):
        file_marks([tmp_path / "gone.png"])
    assert file_marks([]) == []
