"""Images that are cut off, damaged, enormous, no images, or no files; and whole ones, which must keep their pixels."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, features

from mimicdet.data.decode import read_image
from tests.faults.judge import Mutant, Outcome, judge
from tests.faults.mutate import mutate_bytes
from tests.faults.pool import try_all
from tests.faults.table import Line

TRIALS = 1500
LOSSLESS = {"PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "PPM": ".ppm", "GIF": ".gif"}
LOSSY = {"JPEG": ".jpg"}
for _format, _feature, _suffix in (
    ("WEBP", "webp", ".webp"),
    ("AVIF", "avif", ".avif"),
    ("JPEG2000", "jpg_2000", ".jp2"),
):
    if features.check(_feature):
        LOSSY[_format] = _suffix
FORMATS = LOSSLESS | LOSSY


class Made(NamedTuple):
    """An image file as it was made; what it should give as ``Mutant`` has it."""

    file: Path
    refuse: bool | None
    pixels: np.ndarray | None = None
    tolerance: int = 0


def _drawing(rng: random.Random) -> np.ndarray:
    """A few rectangles of few colours, which GIF keeps as they are."""
    height, width = rng.randrange(24, 90), rng.randrange(24, 90)
    pixels = np.full((height, width, 3), rng.randrange(256), np.uint8)
    for _ in range(4):
        y, x = rng.randrange(height - 8), rng.randrange(width - 8)
        pixels[y : y + rng.randrange(8, 40), x : x + rng.randrange(8, 40)] = [rng.randrange(256) for _ in range(3)]
    return pixels


def _encoded(pixels: np.ndarray, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **({"quality": 95} if kind in LOSSY else {}), **how)
    return buffer.getvalue()


def _whole(rng: random.Random, folder: Path) -> Made:
    kind = rng.choice(sorted(FORMATS))
    pixels, file = _drawing(rng), folder / f"a{FORMATS[kind]}"
    file.write_bytes(_encoded(pixels, kind))
    return Made(file, False, pixels, 0 if kind in LOSSLESS else 200)


def _wrong_suffix(rng: random.Random, folder: Path) -> Made:
    made = _whole(rng, folder)
    other = made.file.with_suffix(rng.choice(sorted(FORMATS.values())))
    made.file.rename(other)
    return made._replace(file=other)


def _cut_off(rng: random.Random, folder: Path) -> Made:
    made = _whole(rng, folder)
    content = made.file.read_bytes()
    share = rng.random()
    made.file.write_bytes(content[: int(len(content) * share)])
    layered = made.file.suffix in (".jp2", ".avif", ".gif")  # of which less may do
    return Made(made.file, True if share < 0.6 and not layered else None)


def _damaged(rng: random.Random, folder: Path) -> Made:
    made = _whole(rng, folder)
    content = made.file.read_bytes()
    for _ in range(rng.choice((1, 1, 5))):
        _, content = mutate_bytes(content, rng)
    made.file.write_bytes(content)
    return Made(made.file, None)


def _no_image(rng: random.Random, folder: Path) -> Made:
    file = folder / f"a{rng.choice(sorted(FORMATS.values()))}"
    content = rng.choice(
        (b"", b"no image\n", b"<html></html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.4\n", b"GIF89a", bytes(500))
    )
    file.write_bytes(content or rng.randbytes(rng.randrange(300)))
    return Made(file, True)


def _png(width: int, height: int, bits: int, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, body in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        parts.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))
    return b"".join(parts)


def _absurd_header(rng: random.Random, folder: Path) -> Made:
    width, height = rng.choice(((0, 5), (2**31 - 1, 2**31 - 1), (65535, 65535), (100_000, 100_000), (1, 2**31 - 1)))
    short = min(width, 65535), min(height, 65535)
    small = zlib.compress(bytes(50))
    contents = {
        ".png": _png(width, height, 8, 2, (b"IDAT", small)),
        ".bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0),
        ".gif": b"GIF89a"
        + struct.pack("<HHBBB", *short, 0x80, 0, 0)
        + bytes(6)
        + b",\0\0\0\0"
        + struct.pack("<HHB", *short, 0),
        ".ppm": f"P6 {width} {height} 255\n".encode() + bytes(30),
        ".pgm": f"P5 {width} {height} {rng.choice((0, 65536, 10**9, -1))}\n".encode() + bytes(30),
    }
    suffix = rng.choice(sorted(contents))
    (folder / f"a{suffix}").write_bytes(contents[suffix])
    return Made(folder / f"a{suffix}", True)


def _bomb(rng: random.Random, folder: Path) -> Made:
    file = folder / "a.png"
    kind = rng.choice(("pixels", "text", "profile", "pixels beyond"))
    if kind == "pixels":  # some kB that become 900 million pixels
        file.write_bytes(_png(30_000, 30_000, 1, 0, (b"IDAT", zlib.compress(bytes(3751 * 3000)))))
        return Made(file, True)
    blown = zlib.compress(bytes(200 << 20))
    rows = zlib.compress(b"".join(b"\0" + bytes(120) for _ in range(30)))
    if kind == "pixels beyond":  # more of them than the header says
        file.write_bytes(_png(40, 30, 8, 2, (b"IDAT", blown)))
        return Made(file, None)
    chunk = (b"zTXt", b"a\0\0" + blown) if kind == "text" else (b"iCCP", b"a\0\0" + blown)
    file.write_bytes(_png(40, 30, 8, 2, chunk, (b"IDAT", rows)))
    return Made(file, None)


def _large(rng: random.Random, folder: Path) -> Made:
    """As large as is allowed: read, within the limits of time and memory."""
    file = folder / "a.png"
    Image.new("L", (9000, 9000), 7).save(file, compress_level=1)
    return Made(file, None)


def _frames(rng: random.Random, folder: Path) -> Made:
    file = folder / "a.gif"
    frames = [Image.new("P", (20, 20), n % 7) for n in range(300)]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=20)
    return Made(file, None)


def _turned(rng: random.Random, folder: Path) -> Made:
    """EXIF that is no EXIF; the pixels are fine."""
    file = folder / "a.jpg"
    junk = b"Exif\0\0" + rng.choice((b"II*\0", b"MM\0*", b"")) + rng.randbytes(rng.randrange(4, 400))
    file.write_bytes(_encoded(_drawing(rng), "JPEG", exif=junk))
    return Made(file, None)


def _tiff_circle(rng: random.Random, folder: Path) -> Made:
    """A TIFF whose pages are a circle, or lie outside the file."""
    file = folder / "a.tif"
    content = bytearray(_encoded(_drawing(rng), "TIFF"))
    start = struct.unpack_from("<I", content, 4)[0]
    entries = struct.unpack_from("<H", content, start)[0]
    struct.pack_into("<I", content, start + 2 + 12 * entries, rng.choice((start, 0xFFFFFFFF, 1)))
    file.write_bytes(bytes(content))
    return Made(file, None)


def _no_file(rng: random.Random, folder: Path) -> Made:
    file = folder / "a.png"
    kind = rng.choice(("pipe", "folder", "link to itself", "link to nothing", "zeros without end", "sparse", "socket"))
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "link to itself":
        file.symlink_to(file)
    elif kind == "link to nothing":
        file.symlink_to(folder / "nosuch.png")
    elif kind == "zeros without end":
        file.symlink_to("/dev/zero")
    elif kind == "sparse":
        with file.open("wb") as handle:
            handle.truncate(10 << 30)
    else:
        here = os.getcwd()
        os.chdir(folder)  # the name of a socket must be short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("a.png")
        os.chdir(here)
    return Made(file, True)


MAKERS: dict[str, tuple[int, Callable[[random.Random, Path], Made]]] = {
    "whole": (15, _whole),
    "wrong suffix": (10, _wrong_suffix),
    "cut off": (25, _cut_off),
    "damaged": (25, _damaged),
    "no image": (8, _no_image),
    "absurd header": (10, _absurd_header),
    "bomb": (3, _bomb),
    "large": (1, _large),
    "many frames": (1, _frames),
    "broken EXIF": (6, _turned),
    "circle of pages": (3, _tiff_circle),
    "no file": (6, _no_file),
}
"""How often each is made, in relation."""


def trial(kind: str, seed: int, place: Path) -> Outcome:
    """Makes and judges one image, by ``check`` on a data set of it too."""
    rng, folder = random.Random(f"image {seed}"), place / f"image{seed}"
    (folder / "train").mkdir(parents=True)
    name = rng.choices(list(MAKERS), [often for often, _ in MAKERS.values()])[0]
    try:
        made = MAKERS[name][1](rng, folder / "train")
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 12, 12]}
        document = {"images": [{"id": 1, "file_name": made.file.name}], "annotations": [box]}
        (folder / "train.json").write_text(json.dumps({**document, "categories": [{"id": 1, "name": "cat"}]}))

        def right(pixels: np.ndarray) -> str | None:
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
                return f"pixels of {pixels.dtype} {pixels.shape}"
            if made.pixels is None:
                return None
            if pixels.shape != made.pixels.shape:
                return f"shape {pixels.shape} and not {made.pixels.shape}"
            off = np.abs(pixels.astype(int) - made.pixels.astype(int))
            return "other pixels" if off.max() > made.tolerance or off.mean() > made.tolerance / 10 else None

        command = ("check", str(folder), "--max_faulty_boxes", "1") if made.refuse is not None else ()
        mutant = Mutant(name, lambda: read_image(made.file), right, made.refuse, command, (made.file.name,))
        return Outcome(kind, seed, name, *judge(mutant))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def hostile_images(place: Path, *, share: float, seed: int, jobs: int) -> Iterator[Line]:
    """Yields the line of all images."""
    began, number = time.perf_counter(), max(1, round(TRIALS * share))
    line = Line("hostile images, and good ones", tried=number)
    for outcome in try_all([("image", seed + n) for n in range(number)], trial, place, workers=jobs):
        line.refused += outcome.verdict == "refused"
        line.right += outcome.verdict == "right"
        if outcome.verdict == "failed":
            line.failures.append(f"{outcome.fault} [image {outcome.seed}, {outcome.name}]")
    line.seconds = time.perf_counter() - began
    yield line
