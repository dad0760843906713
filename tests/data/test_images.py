"""Finding images in folders and looking at many at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mimicdet.data import decode as module
from mimicdet.data.decode import find_image, inspect_images, list_images
from mimicdet.errors import UserError
from tests.data.small_sets import write_image


def test_images_are_listed_by_suffix_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("notes.txt", ".hidden.png", ".cache/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(f.relative_to(tmp_path)) for f in list_images(tmp_path)] == ["a.JPG", "b.png", "sub/c.tif"]


def test_folders_are_searched_in_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_image(two / "a.png")
    one.mkdir()
    assert find_image("a.png", (one, two)) == two / "a.png"
    write_image(one / "a.png")
    assert find_image("a.png", (one, two)) == one / "a.png"
    assert find_image("b.png", (one, two)) is None
    assert find_image("..", (one, two)) is None
    assert find_image("a\0.png", (one, two)) is None


@pytest.mark.parametrize("decode", [False, True])
def test_sizes_and_faults_keep_the_order(tmp_path: Path, decode: bool, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write_image(tmp_path / f"{n}.png", 10 + n, 20) for n in range(20)]
    files[3].write_bytes(b"")
    found = inspect_images(files, decode=decode, progress=True, label="train")
    assert [size for size in found if not isinstance(size, UserError)] == [(20, 10 + n) for n in range(20) if n != 3]
    assert isinstance(found[3], UserError)
    assert capsys.readouterr().err == ""  # no bar where nobody looks at a terminal


def test_decoding_finds_what_the_header_hides(tmp_path: Path) -> None:
    file = write_image(tmp_path / "a.png")
    file.write_bytes(file.read_bytes()[:60])
    assert inspect_images([file], decode=False, progress=False, label="") == [(30, 40)]
    assert isinstance(inspect_images([file], decode=True, progress=False, label="")[0], UserError)


def test_an_interruption_stops_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def interrupt(file: Path) -> tuple[int, int]:
        looked.append(file)
        if len(looked) == 1:
            raise KeyboardInterrupt
        time.sleep(0.002)
        return 1, 1

    monkeypatch.setattr(module, "image_size", interrupt)
    with pytest.raises(KeyboardInterrupt):
        inspect_images([tmp_path] * 2000, decode=False, progress=False, label="")
    assert len(looked) < 2000
