"""Photographs in windows: the same pixels as the file read whole, whatever way it is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mimicdet.data import photograph
from mimicdet.data.decode import read_image
from mimicdet.data.photograph import Photograph, is_large, photograph_size
from mimicdet.errors import UserError
from tests.fakes.pixel_kinds import HEIGHT, WIDTH, files, pillow_reads

WINDOWS = ((0, 0, WIDTH, HEIGHT), (0, 0, 1, 1), (5, 3, 30, 20), (16, 16, 17, 17), (20, 10, WIDTH, HEIGHT))
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
RGBA = RNG.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
RGB = np.ascontiguousarray(RGBA[..., :3])


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as too large to be read at once."""
    monkeypatch.setattr(photograph, "MAX_PIXELS", WIDTH * HEIGHT - 1)


def assert_windows_are_those_of(file: Path) -> None:
    whole = read_image(file)
    read = Photograph(file)
    assert read.size == whole.shape[:2]
    for x1, y1, x2, y2 in WINDOWS:
        np.testing.assert_array_equal(read.window((x1, y1, x2, y2)), whole[y1:y2, x1:x2], err_msg=file.name)


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize(
    ("pixels", "how"),
    [
        (RGB, {"tile": (16, 32)}),
        (RGB, {"tile": (16, 16), "compression": "jpeg", "photometric": "ycbcr"}),
        (RGB, {"tile": (16, 16), "compression": "jpeg"}),
        (RGB, {"rowsperstrip": 3, "compression": "lzw", "predictor": True}),
        (RGB, {"bigtiff": True}),
        (RGB, {"compression": "zstd"}),
        (np.moveaxis(RGB, 2, 0), {"planarconfig": "separate", "tile": (16, 16)}),
        (np.moveaxis(RGB, 2, 0), {"planarconfig": "separate"}),
        (np.stack((RGB, RGB[::-1])), {}),
        (RGBA, {"extrasamples": ["unassalpha"]}),
        (RGBA, {"extrasamples": ["assocalpha"], "tile": (16, 16)}),
        (RGBA, {"extrasamples": ["unspecified"]}),
        (np.dstack((RGB, GREY)).astype(np.uint16), {"extrasamples": ["unspecified"], "compression": "deflate"}),
        (GREY, {"photometric": "minisblack", "byteorder": ">"}),
        (GREY, {"photometric": "minisblack", "byteorder": ">", "compression": "deflate"}),
        (GREY.astype(np.uint8), {"photometric": "miniswhite", "tile": (16, 16)}),
        (GREY > 30_000, {"photometric": "miniswhite", "compression": "packbits"}),
        (GREY, {"photometric": "miniswhite", "tile": (16, 16)}),
    ],
)
def test_every_way_of_storing_a_tiff(tmp_path: Path, pixels: np.ndarray, how: dict[str, Any]) -> None:
    tifffile = pytest.importorskip("tifffile")
    how = {"photometric": "rgb", **how}
    tifffile.imwrite(tmp_path / "x.tif", pixels, **how)
    if not pillow_reads(tmp_path / "x.tif"):
        pytest.skip("this Pillow cannot read the file, so there is nothing to compare with")
    assert is_large(tmp_path / "x.tif")
    assert_windows_are_those_of(tmp_path / "x.tif")


@pytest.mark.usefixtures("all_large")
def test_every_kind_of_pixel_is_read_alike_or_refused(tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    read = []
    for file in files(tmp_path):
        if not is_large(file):
            assert file.suffix not in (".tif", ".png", ".jpg")
            continue
        try:
            Photograph(file).window((0, 0, 1, 1))
        except UserError:
            continue
        assert_windows_are_those_of(file)
        read.append(file.name)
    assert {"1.png", "P.png", "L.jpg", "16 bits.tif", "RGBA.tif", "CMYK.tif", "L.tif", "palette.png"} <= set(read)


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RGB.png", "save it as TIFF, which is read in parts"),
        ("turned 6.jpg", "must lie upright"),
        ("float.tif", "no fixed range"),
        ("LAB.tif", "CIELAB"),
    ],
)
def test_refusals_name_the_way_out(tmp_path: Path, name: str, message: str) -> None:
    pytest.importorskip("tifffile")
    list(files(tmp_path))
    with pytest.raises(UserError, match=message):
        Photograph(tmp_path / name)


@pytest.mark.usefixtures("all_large")
def test_pieces_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr(photograph, "_PIECE", 1000)
    tifffile.imwrite(tmp_path / "x.tif", RGB, photometric="rgb", compression="deflate", rowsperstrip=HEIGHT)
    with pytest.raises(UserError, match="save it in tiles"):
        Photograph(tmp_path / "x.tif")
    tifffile.imwrite(tmp_path / "y.tif", RGB, photometric="rgb", compression="deflate", rowsperstrip=2)
    read = Photograph(tmp_path / "y.tif")
    read.window((0, 0, WIDTH, HEIGHT))
    kept = read._read.__self__._pieces  # type: ignore[attr-defined]
    assert 1000 < sum(piece.nbytes for piece in kept.values()) <= 2000


@pytest.mark.usefixtures("all_large")
def test_without_the_packages_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "x.tif")
    monkeypatch.setattr(photograph, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install tifffile imagecodecs \(the extra `large`\)"):
        photograph_size(tmp_path / "x.tif")


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_damage_is_one_sentence(tmp_path: Path, kept: float) -> None:
    tifffile = pytest.importorskip("tifffile")
    file = tmp_path / "x.tif"
    tifffile.imwrite(file, RGB, photometric="rgb", compression="deflate", rowsperstrip=2)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    with pytest.raises(UserError, match="copy it again"):
        Photograph(file).window((0, 0, WIDTH, HEIGHT))


@pytest.mark.usefixtures("all_large")
def test_overview_is_the_reduced_photograph(tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    Image.fromarray(RGB).save(tmp_path / "x.tif")
    picture, step = Photograph(tmp_path / "x.tif").overview(WIDTH // 2 - 1)
    assert step == 3
    np.testing.assert_array_equal(picture, np.asarray(Image.fromarray(RGB).reduce(3)))


def test_small_files_are_read_whole(tmp_path: Path) -> None:
    for file in list(files(tmp_path))[::9]:
        assert not is_large(file)
        try:
            read_image(file)
        except UserError as error:
            with pytest.raises(UserError, match=str(error).split(": ")[-1]):
                Photograph(file)
        else:
            assert_windows_are_those_of(file)
