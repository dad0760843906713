"""Image files of every kind of pixel that Pillow writes: whatever reads images reads these alike, or refuses them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

HEIGHT, WIDTH = 23, 34


def images() -> dict[str, Image.Image]:
    """An image for each mode, by its name."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
    rgba = rng.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    rgb = Image.fromarray(rgba[..., :3])
    see_through = rgb.quantize(50)
    see_through.info["transparency"] = 3
    several = rgb.quantize(50)
    several.info["transparency"] = bytes(range(0, 250, 5))
    made = {mode: rgb.convert(mode) for mode in ("1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGB", "RGBX")}
    made |= {mode: Image.fromarray(rgba).convert(mode) for mode in ("LA", "RGBA", "PA", "La", "RGBa")}
    made |= {"16 bits": Image.fromarray(wide), "32 bits": Image.fromarray(wide.astype(np.int32))}
    made |= {
        "too wide": Image.fromarray(wide.astype(np.int32) * 3),
        "negative": Image.fromarray(-wide.astype(np.int32)),
    }
    made |= {"float": Image.fromarray(wide.astype(np.float32)), "palette": see_through, "palette of alphas": several}
    made["transparent colour"] = rgb.copy()
    made["transparent colour"].info["transparency"] = rgb.getpixel((2, 2))
    made["transparent grey"] = rgb.convert("L")
    made["transparent grey"].info["transparency"] = made["transparent grey"].getpixel((2, 2))
    return made


def pillow_reads(file: Path) -> bool:
    """Says whether the version of Pillow that is installed reads a file at all."""
    try:
        with Image.open(file) as image:
            image.load()
    except (OSError, ValueError):
        return False
    return True


def files(folder: Path) -> Iterator[Path]:
    """Writes each kind of pixel in each format that holds it, and photographs in every orientation."""
    kinds = images()
    for name, image in kinds.items():
        for suffix in ("png", "tif", "jpg", "webp", "gif", "bmp", "jp2", "ppm"):
            file = folder / f"{name}.{suffix}"
            about = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
            try:
                image.save(file, **about)
            except (OSError, ValueError, KeyError, TypeError):  # the format has no such pixels
                file.unlink(missing_ok=True)
                continue
            if pillow_reads(file):  # some versions write YCbCr in TIFF and cannot read it
                yield file
    for tag in range(10):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = tag
        for suffix in ("jpg", "png", "tif", "webp"):
            file = folder / f"turned {tag}.{suffix}"
            kinds["RGB"].save(file, exif=exif)
            yield file
