"""Finds image files in folders and reads them, safely, as upright 8-bit RGB pixels.

Every kind of pixel becomes (h, w, 3) uint8 RGB by a fixed rule that looks at nothing but the pixel itself:

- black-and-white, grey: the value repeated in the three channels;
- 16-bit grey: the full range 0..65535 scaled to 0..255 (no stretching per image, so the same value always
  gives the same pixel); 32-bit integer grey likewise if its values fit in 16 bits, else an error;
- palette, CMYK, YCbCr and the like: converted by Pillow;
- transparency (alpha channel, or a transparent colour or palette entry): composited on white;
- several frames or pages: the first one.

Upright means that the orientation tag (EXIF; XMP where EXIF has none) is applied: sizes, pixels and boxes
all speak of the image as a viewer shows it.
"""

import os
import stat
import threading
import warnings
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from mimicdet.data.budget import PixelBudget
from mimicdet.data.folders import walk_files
from mimicdet.errors import UserError, one_line
from mimicdet.streams import is_special

MAX_PIXELS = 175_000_000
"""Images with more pixels are refused from their header, before anything is decompressed (a file of a few
kB can claim gigabytes). Just below the size at which Pillow itself refuses (2 * 89,478,485)."""

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".mpo", ".png", ".apng", ".bmp", ".gif", ".tif", ".tiff"),
        *(".webp", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm"),
    )
)
"""The endings of image files' names, in lower case, by which a folder is searched for images: those by which Pillow
knows the formats below, but for PPM's of floats."""

_NO_IMAGES = frozenset((".txt", ".xml", ".json", ".yaml", ".yml", ".csv", ".md", ".cache"))
"""The endings of files that lie beside images and are none."""

# Raster formats only: some of Pillow's other readers start programs (EPS runs Ghostscript).
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")

_PHOTOMETRIC, _SAMPLE_FORMAT, _SIGNED = 262, 339, 2
"""TIFF's tags of what 0 stands for and of what numbers are, and that of signed ones."""

REDUCTIONS = (8, 4, 2, 1)
"""Divisors of its sides by which a JPEG file can be decoded."""

_AS_STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: np.rot90,
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""How upright pixels (h, w, 3) are viewed in the order of the file, by its orientation as EXIF numbers it."""

_STRIP = 4_000_000
"""So many pixels are converted at once: the copies that it takes are small."""

_budget = PixelBudget(MAX_PIXELS)

# Pillow's blocks of 16 MiB stay with the thread that freed them; glibc gives those above 32 MiB back at once
Image.core.set_block_size(64 * 2**20)


def share_budget(limit: int, alone: AbstractContextManager) -> None:
    """Gives this process, one of several that read images, its share of the budget; see ``PixelBudget``."""
    global _budget
    _budget = PixelBudget(limit, alone)


_WARNED = 89_000_000
"""Just below the number of pixels from which Pillow warns."""

# warnings.catch_warnings() swaps a list that all threads share, so only one thread at a time may do it.
_warnings_lock = threading.Lock()


class PixelRangeError(ValueError):
    """The pixels' values have no fixed range, so that no rule says which of them is white."""


def read_image(file: Path) -> np.ndarray:
    """Returns upright pixels (h, w, 3) uint8 RGB; UserError if missing, truncated, damaged, no image or too large."""
    with _opened(file) as image, _budget.taken(image.width * image.height):
        return _emptied(image)


def read_reduced(file: Path, reduction: int) -> tuple[np.ndarray, tuple[int, int], int]:
    """Reads a file as :func:`read_image` does, but JPEG files at a fraction of their size, which takes less time.

    Their sides are divided by ``reduction`` of ``REDUCTIONS`` at most (and rounded up). Other files come whole, and
    turned ones by a divisor of their sides: the odd pixels would move to the front.
    Returns the pixels, the height and width of the whole upright image, and by how much they were reduced.
    """
    with _opened(file) as image:
        size = _upright_size(image)
        if image.format not in ("JPEG", "MPO"):
            reduction = 1
        while reduction > 1 and orientation(image) > 1 and any(side % reduction for side in size):
            reduction //= 2
        if reduction > 1:
            width, height = image.size
            image.draft(image.mode, (max(width // reduction, 1), max(height // reduction, 1)))
        with _budget.taken(image.width * image.height):
            return _emptied(image), size, reduction


def _emptied(image: Image.Image) -> np.ndarray:
    """Returns an image's pixels as ``to_rgb`` does, and frees Pillow's copy of them before others are decoded."""
    try:
        return to_rgb(image)
    finally:
        image.close()


def image_size(file: Path) -> tuple[int, int]:
    """Returns height and width of the upright image, from the file's header; raises UserError as read_image does."""
    with _opened(file) as image:
        return _upright_size(image)


def _decoded_size(file: Path) -> tuple[int, int]:
    """Returns ``image_size`` of a file that ``read_image`` would read; keeps none of its pixels."""
    with _opened(file) as image, _budget.taken(image.width * image.height):
        size = _upright_size(image)
        try:
            deque(_strips(image), maxlen=0)
        finally:
            image.close()
        return size


def to_rgb(image: Image.Image) -> np.ndarray:
    """Returns upright pixels (h, w, 3) uint8 RGB, by the rules at the top; PixelRangeError if they have no range."""
    turn = orientation(image)  # before load(), which makes TIFFs upright and drops their tag
    upright = stored = None
    for top, strip in _strips(image):
        if upright is None:
            width, height = image.size
            upright = np.empty((width, height, 3) if turn >= 5 else (height, width, 3), np.uint8)
            stored = _AS_STORED[turn](upright)  # (height, width, 3)
        assert stored is not None
        stored[top : top + strip.height] = np.asarray(strip)
    assert upright is not None
    return upright


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Decodes an image; yields it as RGB in strips, each with its first row, as it is stored."""
    with _large_allowed(image.width * image.height):
        image.load()
    width, height = image.size
    if not width * height:
        raise PixelRangeError("it has no pixels")
    if image.mode == "F":
        raise PixelRangeError("its pixels are 32-bit floats, which have no fixed range; save it with 8 or 16 bits")
    tags = getattr(image, "tag_v2", None) or {}  # of a TIFF
    if not _is_deep(image) and _SIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)):  # Pillow takes them as they are
        raise PixelRangeError("its pixels are signed bytes, which have no fixed range; save it with 8 or 16 bits")
    white_is_zero = image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0
    rows = max(_STRIP // width, 1)
    for top in range(0, height, rows):
        strip = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        yield top, _strip_to_rgb(strip, white_is_zero=white_is_zero)


def _is_deep(image: Image.Image) -> bool:
    """Tells whether a grey value has more than 8 bits; floats aside."""
    return image.mode == "I" or image.mode.startswith("I;16")


def _strip_to_rgb(image: Image.Image, *, white_is_zero: bool) -> Image.Image:
    """Converts a part of an image, pixel by pixel; ``white_is_zero``: of 16 bits, which Pillow does not turn round."""
    if _is_deep(image):
        values = np.asarray(image)
        if values.dtype.itemsize > 2 and (values.min() < 0 or values.max() > 65535):
            raise PixelRangeError("its pixels are integers over 65535; save it with 8 or 16 bits")
        shown = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        if white_is_zero:
            shown = 255 - shown
        if isinstance(clear := image.info.get("transparency"), int):
            shown[values == clear] = 255
        image = Image.fromarray(shown)
    if image.has_transparency_data:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
    return image if image.mode == "RGB" else image.convert("RGB")


def orientation(image: Image.Image) -> int:
    """Returns the image's orientation, 1 (upright) to 8 as EXIF numbers it; 5 and above swap height and width."""
    if getattr(image, "tag_v2", None) is not None:
        return 1  # a TIFF: Pillow turns it upright itself while loading, and its size is upright from the start
    try:
        # Not image.getexif(): for a PNG without the tag that would decompress the pixels in search of it.
        tag = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block raises whatever its parser trips over; the pixels may be fine
        return 1
    return tag if tag in _AS_STORED else 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (width, height) if orientation(image) >= 5 else (height, width)


_CUT = "detect in it with --tile, or cut it into tiles with `mimicdet cut`, which both read TIFF files in parts"
_PROBLEMS: dict[type[Exception], str] = {
    FileNotFoundError: "there is no such image file; restore it or correct the path",
    IsADirectoryError: "is a folder, not an image file; correct the path",
    PermissionError: "the image may not be read; change the file's permissions",
    Image.DecompressionBombError: f"the image has more pixels than {MAX_PIXELS:,}, which is the limit; {_CUT}",
    UnidentifiedImageError: "is not an image in a format that can be read (JPEG, PNG, TIFF, WebP, BMP, GIF, PPM, "
    "JPEG 2000, AVIF); convert it, or copy it again if it was damaged",
}


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@contextmanager
def _large_allowed(pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Silences Pillow, which warns from half its limit on, and of damage that a UserError tells or nobody sees."""
    if pixels <= _WARNED:
        yield
        return
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Opens a file with Pillow and checks its size; whatever goes wrong inside becomes a UserError."""
    try:
        if is_special(file):
            raise UserError(f"{file}: is a pipe, a socket or a device, not an image file; correct the path")
        with open(file, "rb") as stream:
            stream.peek(1)  # wait for a slow disk outside the lock
            with _large_allowed():
                image = Image.open(stream, formats=_formats())
            with image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    problem = f"the image is {width} x {height} pixels, over the limit of {MAX_PIXELS:,} pixels"
                    raise UserError(f"{file}: {problem}; {_CUT}")
                yield image
    except (UserError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything on damaged files: OSError, SyntaxError, struct.error, ...
        damaged = f"the image is truncated, damaged or of an unknown kind ({error}); "
        damaged += "copy it again, or remove it and its annotations"
        known = {**_PROBLEMS, PixelRangeError: str(error)}
        problem = next((text for kind, text in known.items() if isinstance(error, kind)), damaged)
        raise UserError(f"{file}: {problem}") from None


def list_images(folder: Path) -> list[Path]:
    """Returns all images that `walk_files` finds in a folder, told by their suffix, sorted by path."""
    return images_among(walk_files(folder))[0]


def images_among(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Returns the images among files, told by their suffix, and what may be an image but has no such suffix."""
    images: list[Path] = []
    others: list[Path] = []
    for file in files:
        if (suffix := file.suffix.lower()) in IMAGE_SUFFIXES:
            if not is_special(file):
                images.append(file)
        elif suffix not in _NO_IMAGES:
            others.append(file)
    return images, others


def find_image(name: str, folders: Iterable[Path]) -> Path | None:
    """Returns the first file of that name (a relative path, perhaps with backslashes) in the folders, in order.

    Leading ``..`` go up in the folder's own name: the file lies where its path says, through whatever links.
    """
    found = find_same_image(name, folders)
    return found[0] if found else None


def find_same_image(name: str, folders: Iterable[Path]) -> tuple[Path, Hashable] | None:
    """Returns what `find_image` does, and what is equal for all links to the same file, whether symbolic or hard."""
    spellings = dict.fromkeys(map(os.path.normpath, (name, name.replace("\\", "/"))))
    files = (_joined(folder, spelling) for spelling in spellings for folder in folders)
    for file in files:
        with suppress(OSError, ValueError):  # there is none, or no file has such a name
            about = os.stat(file)
            if stat.S_ISREG(about.st_mode):
                return Path(file), (about.st_dev, about.st_ino) if about.st_ino else file
    return None


def _joined(folder: Path, name: str) -> str:
    up = os.path.join(os.pardir, "")
    while name.startswith(up) and folder.name not in ("", os.pardir):
        folder, name = folder.parent, name.removeprefix(up)
    return os.path.join(folder, name)


def inspect_images(
    files: Sequence[Path],
    *,
    decode: bool,
    progress: bool,
    label: str,
    size: Callable[[Path], tuple[int, int]] | None = None,
) -> list[tuple[int, int] | UserError]:
    """Returns height and width of each upright image, or the UserError that says why it cannot be read.

    A pool of threads reads them, with ``progress`` as a bar; to ``decode`` the pixels too finds truncated files.
    ``size`` reads the headers; None is ``image_size``.
    """

    def inspect(file: Path) -> tuple[int, int] | UserError:
        try:
            if not decode:
                return (size or image_size)(file)
            return _decoded_size(file)
        except UserError as error:
            return error

    _formats()  # imports Pillow's readers once and here, not in several threads at a time
    hide = None if progress else True  # None hides the bar where nobody looks at a terminal
    with ThreadPoolExecutor(thread_name_prefix="images") as pool:  # Ctrl-C cancels what pool.map has not begun
        found = pool.map(inspect, files)
        return list(tqdm(found, total=len(files), desc=one_line(label), unit="image", disable=hide, leave=False))
