"""Files in folders and below: links to folders, loops of links, patterns."""

from __future__ import annotations

import glob
import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mimicdet.data.decode import IMAGE_SUFFIXES, images_among, list_images
from mimicdet.data.folders import glob_files, walk_files
from mimicdet.predict import files_left_out, find_images
from tests.fakes.small_sets import error_of


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(root: Path, files: list[Path]) -> list[str]:
    return [file.relative_to(root).as_posix() for file in files]


def test_folders_behind_links_are_searched(tmp_path: Path) -> None:
    touch(tmp_path, "store/deep/b.png", "set/a.png")
    (tmp_path / "set" / "more").symlink_to(tmp_path / "store")
    (tmp_path / "set" / "c.png").symlink_to(tmp_path / "store" / "deep" / "b.png")
    found = ["set/a.png", "set/c.png", "set/more/deep/b.png"]
    assert names(tmp_path, walk_files(tmp_path / "set")) == found
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert len(walk_files(tmp_path / "link")) == 3
    assert len(find_images([tmp_path / "link"])) == len(find_images([f"{tmp_path}/link/**/*.png"])) == 3


def test_a_folder_is_searched_under_its_own_name_where_it_has_one_here(tmp_path: Path) -> None:
    touch(tmp_path, "z/a.png")
    (tmp_path / "a").symlink_to("z")
    assert names(tmp_path, walk_files(tmp_path)) == ["z/a.png"]


def test_links_to_folders_above_bring_nothing_of_others(tmp_path: Path) -> None:
    touch(tmp_path, "images/train/a.png", "images/val/b.png")
    (tmp_path / "images" / "train" / "loop").symlink_to("..")
    (tmp_path / "images" / "train" / "top").symlink_to(tmp_path)
    assert names(tmp_path, list_images(tmp_path / "images" / "train")) == ["images/train/a.png"]


def test_many_loops_of_links_end(tmp_path: Path) -> None:
    folders = [tmp_path / "set" / f"f{number}" for number in range(12)]
    for folder in folders:
        touch(folder, "a.jpg")
    for one, other in itertools.permutations(folders, 2):
        (one / other.name).symlink_to(other)
    (tmp_path / "set" / "itself").symlink_to("itself")
    assert len(walk_files(tmp_path / "set")) == 13
    assert len(glob_files(f"{tmp_path}/set/**/*.jpg")) == len(glob_files(f"{tmp_path}/**/f*/**/*.jpg")) == 12


def test_hidden_files_are_not_looked_at_and_lost_links_are(tmp_path: Path) -> None:
    touch(tmp_path, ".a.png", ".b/c.png", "d.png")
    (tmp_path / "gone").symlink_to("/no/such/folder")
    assert names(tmp_path, walk_files(tmp_path)) == ["d.png", "gone"]
    assert names(tmp_path, files_left_out([tmp_path])) == ["gone"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(place: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)  # root may read everything
    assert error_of(walk_files, tmp_path).startswith(f"{tmp_path}: the folder cannot be read (Permission denied)")


_PARTS = st.sampled_from(["**", "*", "a", "b", "a*", "[ab]", "?.png", "*.png", "*.*"])


@given(st.lists(_PARTS, min_size=1, max_size=5), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_patterns_mean_what_python_says(tmp_path: Path, pattern: list[str], from_above: bool) -> None:
    root = tmp_path / "root"
    touch(root, "a/a/a.png", "a/b/b.png", "b/a.png", "a.png", "b/b/b/b/b.png", "a/.b/b.png", "a/b/c")
    full = f"{tmp_path / '**' if from_above else root}/{'/'.join(pattern)}"
    expected = {Path(file) for file in glob.glob(full, recursive=True) if Path(file).is_file()}
    found = glob_files(full)
    assert len(found) == len(set(found)) or "**" not in full
    assert set(found) == expected


def test_relative_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/b.png", "c.png")
    monkeypatch.chdir(tmp_path)
    assert glob_files("**/*.png") == [Path("a/b.png"), Path("c.png")]
    assert glob_files("*/*.png") == [Path("a/b.png")]
    assert glob_files("none/**") == []


def test_images_have_every_suffix_by_which_pillow_knows_the_formats_that_are_read() -> None:
    Image.init()
    read = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
    known = {suffix for suffix, name in Image.EXTENSION.items() if name in read} - {".pfm"}  # floats have no range
    assert known <= IMAGE_SUFFIXES


def test_files_that_may_be_images_but_are_not_called_so_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "a.JFIF", "b.mpo", "c.jpe", "d.heic", "e", "notes.txt", "labels.xml", "sub/f.psd")
    images, others = images_among(walk_files(tmp_path))
    assert names(tmp_path, images) == ["a.JFIF", "b.mpo", "c.jpe"]
    assert names(tmp_path, others) == names(tmp_path, files_left_out([tmp_path])) == ["d.heic", "e", "sub/f.psd"]
    assert names(tmp_path, files_left_out([f"{tmp_path}/*.h*", tmp_path / "e"])) == ["d.heic"]
