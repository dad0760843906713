"""Decoding: every pixel format by its stated rule, upright, safe against damaged and hostile files."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import cbook
from PIL import ExifTags, Image, ImageFile, ImageOps

from mimicdet.data import decode
from mimicdet.data.budget import PixelBudget
from mimicdet.data.decode import (
    MAX_PIXELS,
    REDUCTIONS,
    find_image,
    image_size,
    inspect_images,
    list_images,
    read_image,
    read_reduced,
    to_rgb,
)
from mimicdet.errors import UserError
from mimicdet.export import run_onnx
from tests.fakes import pixel_kinds
from tests.fakes.small_sets import error_of, write_image

UNREADABLE = ("too wide", "negative", "float")  # of the kinds of pixels; some formats hold them otherwise
GRADIENT = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def save(tmp_path: Path, image: Image.Image, name: str = "x.png", **options: Any) -> Path:
    file = tmp_path / name
    image.save(file, **options)
    return file


def header_only_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_rgb_is_kept(tmp_path: Path) -> None:
    pixels = read_image(save(tmp_path, Image.fromarray(GRADIENT)))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, GRADIENT)


def test_grey_and_black_and_white_are_repeated(tmp_path: Path) -> None:
    grey = GRADIENT[..., 0]
    np.testing.assert_array_equal(read_image(save(tmp_path, Image.fromarray(grey))), np.stack([grey] * 3, -1))
    bits = grey % 2 == 0
    expected = np.stack([bits * np.uint8(255)] * 3, -1)
    np.testing.assert_array_equal(read_image(save(tmp_path, Image.fromarray(bits))), expected)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_are_scaled_over_the_full_range(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 1, 128, 129, 257, 32896, 65406, 65535]], dtype=np.uint16)
    expected = np.round(values / 257).astype(np.uint8)
    pixels = read_image(save(tmp_path, Image.fromarray(values), name))
    np.testing.assert_array_equal(pixels, np.stack([expected] * 3, -1))


def test_big_endian_sixteen_bits(tmp_path: Path) -> None:
    values = np.array([[0, 257, 65535]], dtype=">u2")
    image = Image.frombytes("I;16B", (3, 1), values.tobytes())
    np.testing.assert_array_equal(to_rgb(image)[0, :, 0], [0, 1, 255])


def test_wide_integers_are_taken_where_they_fit_in_sixteen_bits(tmp_path: Path) -> None:
    values = np.array([[0, 257, 65535]], dtype=np.int32)
    np.testing.assert_array_equal(read_image(save(tmp_path, Image.fromarray(values), "x.tif"))[0, :, 0], [0, 1, 255])
    file = save(tmp_path, Image.fromarray(values + 1), "y.tif")
    assert error_of(read_image, file).startswith(f"{file}: its pixels are integers over 65535")


def test_sixteen_bits_of_which_zero_is_white(tmp_path: Path) -> None:
    """As the same picture of 8 bits, which Pillow turns round itself; both ways of reading one."""
    tifffile = pytest.importorskip("tifffile")
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    tifffile.imwrite(tmp_path / "16.tif", values, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "8.tif", (values // 257).astype(np.uint8), photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "16.tif"), read_image(tmp_path / "8.tif"))
    np.testing.assert_array_equal(run_onnx._pixels(tmp_path / "16.tif"), read_image(tmp_path / "16.tif"))
    assert read_image(tmp_path / "16.tif")[0, 0, 0] == 255


def test_signed_bytes_are_refused(tmp_path: Path) -> None:
    """Pillow would take -6 for 250."""
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "x.tif", np.full((4, 4), -6, np.int8), photometric="minisblack")
    assert error_of(read_image, tmp_path / "x.tif").endswith(
        "x.tif: its pixels are signed bytes, which have no fixed range; save it with 8 or 16 bits"
    )
    with pytest.raises(run_onnx.UnusableFileError, match="its pixels are signed bytes"):
        run_onnx._pixels(tmp_path / "x.tif")


def test_a_transparent_grey_of_sixteen_bits_is_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 257, 514]], np.uint16))
    image.save(tmp_path / "x.png", transparency=257)
    for pixels in (read_image(tmp_path / "x.png"), run_onnx._pixels(tmp_path / "x.png")):
        assert pixels[0, :, 0].tolist() == [0, 255, 2]


def test_floats_are_refused(tmp_path: Path) -> None:
    file = save(tmp_path, Image.fromarray(np.ones((2, 2), np.float32)), "x.tif")
    assert error_of(read_image, file).startswith(f"{file}: its pixels are 32-bit floats")


def test_transparency_is_composited_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = [0, 255, 51]
    expected = [[255, 255, 255], [200, 0, 0], [244, 204, 204]]  # 255 + (c - 255) * alpha / 255
    np.testing.assert_array_equal(read_image(save(tmp_path, Image.fromarray(rgba)))[0], expected)
    grey_alpha = np.array([[[100, 0], [100, 255], [100, 51]]], np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path, Image.fromarray(grey_alpha)))[0, :, 0], [255, 100, 224])


def test_transparent_palette_entry_and_colour_are_white(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    plain = read_image(save(tmp_path, palette))
    np.testing.assert_array_equal(plain[0], [[255, 0, 0], [0, 255, 0], [0, 0, 255]])
    clear = read_image(save(tmp_path, palette, transparency=1))
    np.testing.assert_array_equal(clear[0], [[255, 0, 0], [255, 255, 255], [0, 0, 255]])
    keyed = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    np.testing.assert_array_equal(
        read_image(save(tmp_path, keyed, transparency=(1, 2, 3)))[0], [[255, 255, 255], [4, 5, 6]]
    )


def test_cmyk(tmp_path: Path) -> None:
    file = save(tmp_path, Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "x.tif")
    np.testing.assert_array_equal(read_image(file)[0, 0], [255, 0, 0])


def test_several_frames_give_the_first(tmp_path: Path) -> None:
    frames = [Image.new("L", (6, 4), value) for value in (10, 200)]
    file = save(tmp_path, frames[0], "x.gif", save_all=True, append_images=frames[1:])
    assert (read_image(file) == 10).all()


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp", "x.jpg"])
def test_every_orientation_is_made_upright(tmp_path: Path, name: str, tag: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = tag
    lossless = {"lossless": True} if name == "x.webp" else {}
    file = save(tmp_path, Image.fromarray(GRADIENT), name, exif=exif, **lossless)
    with Image.open(file) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))  # Pillow's own way is the oracle
    assert expected.shape[:2] == ((7, 5) if tag >= 5 else (5, 7))
    np.testing.assert_array_equal(read_image(file), expected)
    assert image_size(file) == expected.shape[:2]


def test_opened_image_gives_the_same_as_its_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = save(tmp_path, Image.fromarray(GRADIENT), exif=exif)
    with Image.open(file) as image:
        np.testing.assert_array_equal(to_rgb(image), read_image(file))


def test_damaged_exif_does_not_hide_the_image(tmp_path: Path) -> None:
    file = save(tmp_path, Image.fromarray(GRADIENT), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_image(file), GRADIENT)
    assert image_size(file) == (5, 7)


def test_size_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image))
    for name in ("x.png", "x.jpg", "x.tif", "x.bmp"):
        assert image_size(save(tmp_path, Image.fromarray(GRADIENT), name)) == (5, 7)
    assert not decoded


def test_size_reads_the_header_only(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(header_only_png(60, 50))
    assert image_size(file) == (50, 60)
    assert str(file) in error_of(read_image, file)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp", "x.bmp"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_truncated_files_are_named(tmp_path: Path, name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = save(tmp_path, Image.fromarray(noise), name)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    assert error_of(read_image, file).startswith(f"{file}: ")


def test_missing_folder_and_other_files(tmp_path: Path) -> None:
    assert "there is no such image file" in error_of(read_image, tmp_path / "no.jpg")
    assert "is a folder" in error_of(image_size, tmp_path)
    text = tmp_path / "x.jpg"
    text.write_text("not an image")
    assert "not an image in a format that can be read" in error_of(read_image, text)


def test_readers_that_start_programs_are_off(tmp_path: Path) -> None:
    file = tmp_path / "x.jpg"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    assert "not an image in a format" in error_of(image_size, file)


def test_bombs_are_refused_from_the_header(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    for width, height in ((20_000, 8_751), (30_000, 30_000), (2**31 - 1, 2**31 - 1)):  # ours; Pillow's; absurd
        file = tmp_path / f"{width}.png"
        file.write_bytes(header_only_png(width, height))
        for read in (image_size, read_image):
            assert "cut it into tiles" in error_of(read, file)
    assert limit == Image.MAX_IMAGE_PIXELS
    assert limit is not None
    assert 2 * limit > MAX_PIXELS


def test_large_images_within_the_limit_pass_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(header_only_png(12_000, 10_000))  # 120 million: over Pillow's limit for a warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(file) == (10_000, 12_000)


def test_threads_leave_the_warning_filters_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save(tmp_path, Image.fromarray(GRADIENT))
    really_open = Image.open

    def slow_open(*args: Any, **kwargs: Any) -> Image.Image:
        time.sleep(random.random() * 0.002)  # threads meet here unless they are kept apart
        return really_open(*args, **kwargs)

    monkeypatch.setattr(decode.Image, "open", slow_open)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(image_size, [file] * 80))
    assert list(warnings.filters) == before


def test_running_out_of_memory_is_not_called_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save(tmp_path, Image.fromarray(GRADIENT))

    def fail(image: Image.Image) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(decode, "to_rgb", fail)
    with pytest.raises(MemoryError):
        read_image(file)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(("width", "height", "tag"), [(507, 389, 1), (504, 392, 6), (504, 392, 3)])
def test_jpeg_files_are_decoded_at_a_fraction_of_their_size(
    tmp_path: Path, mode: str, reduction: int, width: int, height: int, tag: int
) -> None:
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as portrait:
        image = portrait.convert(mode).crop((0, 0, width, height))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = tag
    file = save(tmp_path, image, "x.jpg", quality=95, exif=exif)
    pixels, size, reduced_by = read_reduced(file, reduction)
    assert reduced_by == reduction
    assert size == ((width, height) if tag == 6 else (height, width))
    whole = read_image(file)
    h, w = (-(-side // reduction) for side in size)
    assert pixels.shape == (h, w, 3)
    padded = np.pad(whole, ((0, h * reduction - size[0]), (0, w * reduction - size[1]), (0, 0)), mode="edge")
    mean = padded.reshape(h, reduction, w, reduction, 3).mean((1, 3))
    assert np.abs(pixels - mean).mean() < 1.5  # of 255


def test_turned_jpeg_files_are_reduced_by_a_divisor_of_their_sides(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    pixels, size, reduction = read_reduced(save(tmp_path, Image.new("RGB", (400, 302)), "x.jpg", exif=exif), 8)
    assert (pixels.shape, size, reduction) == ((151, 200, 3), (302, 400), 2)


def test_other_files_come_whole(tmp_path: Path) -> None:
    pixels, size, reduction = read_reduced(save(tmp_path, Image.fromarray(GRADIENT)), 8)
    assert (size, reduction) == ((5, 7), 1)
    np.testing.assert_array_equal(pixels, GRADIENT)


# Many files


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

    monkeypatch.setattr(decode, "image_size", interrupt)
    with pytest.raises(KeyboardInterrupt):
        inspect_images([tmp_path] * 2000, decode=False, progress=False, label="")
    assert len(looked) < 2000


def test_strips_are_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {file: read_image(file) for file in pixel_kinds.files(tmp_path) if file.stem not in UNREADABLE}
    monkeypatch.setattr(decode, "_STRIP", 5 * pixel_kinds.WIDTH)
    for file, whole in kinds.items():
        np.testing.assert_array_equal(read_image(file), whole, err_msg=file.name)


def test_reading_stays_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [save(tmp_path, Image.new("RGB", (20, 20)), f"{i}.png") for i in range(12)]
    monkeypatch.setattr(decode, "_budget", PixelBudget(900))
    now, most, convert = [0], [0], decode._strip_to_rgb

    def slow(image: Image.Image, **how: bool) -> Image.Image:
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(0.002)
        now[0] -= 1
        return convert(image, **how)

    monkeypatch.setattr(decode, "_strip_to_rgb", slow)
    assert inspect_images(files, decode=True, progress=False, label="") == [(20, 20)] * 12
    assert most == [2]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
def test_pipes_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    good = save(tmp_path, Image.new("RGB", (2, 2)), "y.png")
    (tmp_path / "z.png").symlink_to(tmp_path / "x.png")
    (tmp_path / "lost.png").symlink_to(tmp_path / "none")
    assert list_images(tmp_path) == [tmp_path / "lost.png", good], "what is lost is still missed"
    for read in (image_size, read_image):
        for name in ("x.png", "z.png"):
            assert "a pipe, a socket or a device" in error_of(read, tmp_path / name)
        assert "a pipe, a socket or a device" in error_of(read, Path("/dev/null"))


def test_images_between_pillows_warning_and_the_limit_are_read_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(tmp_path, Image.new("RGB", (40, 30)), "x.tif", compression="tiff_lzw")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(decode, "_WARNED", 999)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(file).shape == (30, 40, 3)


def test_of_damage_pillow_itself_says_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    buffer = io.BytesIO()
    Image.fromarray(GRADIENT).save(buffer, "TIFF")
    content = buffer.getvalue()
    for kept in range(8, len(content)):
        (tmp_path / "x.tif").write_bytes(content[:kept])
        with contextlib.suppress(UserError):
            read_image(tmp_path / "x.tif")
    assert [str(one.message) for one in recwarn] == []
