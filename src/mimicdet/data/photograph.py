"""Reads photographs window by window, also those that have too many pixels to be read at once.

Up to ``MAX_PIXELS`` a photograph is read whole, as :func:`mimicdet.data.decode.read_image` does. Above, TIFF files
are read in the strips or tiles that they are stored in, and PNG and JPEG files of one byte a pixel (black-and-white,
grey, palette) whole, for they need no more memory. The pixels follow the rules of ``mimicdet.data.decode``.
"""

import importlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from mimicdet.data.decode import MAX_PIXELS, PixelRangeError, image_size, orientation, read_image, to_rgb
from mimicdet.data.tiles import Window
from mimicdet.errors import UserError
from mimicdet.streams import is_special

LARGEST = 100 * MAX_PIXELS
"""Photographs with more pixels than this are refused."""
_PIECE = 128 * 2**20
"""A piece of a file may take so many bytes decoded, and twice as many are kept."""
_READERS: dict[bytes, Callable[..., Image.Image]] = {
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
    b"II+\0": TiffImagePlugin.TiffImageFile,
    b"MM\0+": TiffImagePlugin.TiffImageFile,
    b"\x89PNG": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
}
"""By the first bytes of a file. ``Image.open`` would refuse the size; these read the header alone."""


class Photograph:
    """A photograph is an image file that is read in windows; UserError as for ``read_image``.

    ``size`` is height and width.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        if not is_large(file):
            self._whole = read_image(file)
            self.size: tuple[int, int] = self._whole.shape[:2]
            self._read: Callable[[Window], np.ndarray] = self._from_whole
            return
        header = _header(file)
        assert header is not None
        self.size = header.height, header.width
        pixels = header.width * header.height
        if pixels > LARGEST:
            raise _refused(file, f"has {header.width} x {header.height} pixels, over the limit of {LARGEST:,}; cut it")
        if orientation(header) > 1 or (isinstance(header, TiffImagePlugin.TiffImageFile) and _is_turned(header)):
            raise _refused(file, "is so large that it must lie upright; turn it and remove its orientation tag")
        if header.format == "TIFF":
            self._read = _Tiff(file).window
        elif header.mode in ("1", "L", "P") and pixels <= 4 * MAX_PIXELS:  # they take a byte a pixel, RGB takes four
            self._read = lambda window: to_rgb(header.crop(window))
        else:
            limit = f"{MAX_PIXELS:,} pixels"
            way_out = "save it as TIFF, which is read in parts"
            raise _refused(file, f"has {header.width} x {header.height} pixels, over the limit of {limit}; {way_out}")

    def window(self, window: Window) -> np.ndarray:
        """Returns the pixels (h, w, 3) uint8 RGB of a window of the photograph."""
        with _damage_explained(self.file):
            return self._read(window)

    def overview(self, longest: int) -> tuple[np.ndarray, int]:
        """Returns a small picture, no side over ``longest``, and the whole number that divided the sides."""
        height, width = self.size
        step = -(-max(self.size) // longest)
        rows = max(1, MAX_PIXELS // 8 // width // step) * step
        strips = []
        for top in range(0, height, rows):
            strip = Image.fromarray(self.window((0, top, width, min(top + rows, height))))
            strips.append(np.asarray(strip.reduce(step)))
        return np.concatenate(strips), step

    def _from_whole(self, window: Window) -> np.ndarray:
        x1, y1, x2, y2 = window
        return self._whole[y1:y2, x1:x2]


def photograph_size(file: Path) -> tuple[int, int]:
    """Returns height and width as ``image_size`` does, but those of large photographs too; UserError as there."""
    return Photograph(file).size if is_large(file) else image_size(file)


def is_large(file: Path) -> bool:
    """Says whether a file has more than ``MAX_PIXELS`` by its header, and is of a format that may be read so."""
    header = _header(file)
    return header is not None and header.width * header.height > MAX_PIXELS


def _header(file: Path) -> Image.Image | None:
    """Opens the header of a TIFF, PNG or JPEG file; None where it is something else or damaged."""
    try:
        if is_special(file):
            return None
        with open(file, "rb") as stream:
            start = stream.read(4)
        reader = next((reader for begins, reader in _READERS.items() if start.startswith(begins)), None)
        return None if reader is None else reader(str(file))
    except Exception:  # whatever a damaged header provokes; read_image says what is wrong
        return None


def _is_turned(tiff: TiffImagePlugin.TiffImageFile) -> bool:
    return tiff.tag_v2.get(ExifTags.Base.Orientation, 1) in range(2, 9)  # Pillow turns it while loading


def _refused(file: Path, problem: str) -> UserError:
    return UserError(f"{file}: the image {problem}")


@contextmanager
def _damage_explained(file: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError):
        raise
    except PixelRangeError as error:
        raise UserError(f"{file}: {error}") from None
    except Exception as error:  # decoders raise anything on damaged files
        raise _refused(file, f"is truncated, damaged or of an unknown kind ({error}); copy it again") from None


class _Tiff:
    """The first page of a TIFF file, of which the pieces (strips or tiles) are decoded that a window touches."""

    def __init__(self, file: Path) -> None:
        missing = [name for name in ("tifffile", "imagecodecs") if find_spec(name) is None]
        if missing:
            way_out = f"pip install {' '.join(missing)} (the extra `large`), or cut it"
            raise _refused(file, f"has over {MAX_PIXELS:,} pixels, so that it is read in parts by tifffile: {way_out}")
        tifffile = importlib.import_module("tifffile")
        with _damage_explained(file):
            self._file = tifffile.TiffFile(file)
            self._page = page = self._file.pages[0]
            self._pieces: OrderedDict[int, np.ndarray] = OrderedDict()
            tall, wide = min(page.rowsperstrip, page.imagelength), page.imagewidth
            self._grid = (page.tilelength, page.tilewidth) if page.is_tiled else (tall, wide)
            samples = page.samplesperpixel if page.planarconfig == 1 else 1
            # One piece that holds everything, not compressed: rows are read where they lie
            self._mapped = bool(page.is_memmappable and page.planarconfig == 1 and page.bitspersample in (8, 16))
            size = self._grid[0] * self._grid[1] * samples * page.dtype.itemsize
            if size > _PIECE and not self._mapped:
                way_out = "save it in tiles, such as of 512 x 512 pixels"
                raise _refused(file, f"is stored in pieces of {size / 2**20:.0f} MiB, too large to decode; {way_out}")
            _to_image(page, np.zeros((1, 1, page.samplesperpixel), page.dtype))  # refuses what is not known

    def window(self, window: Window) -> np.ndarray:
        """Returns the pixels of a window."""
        x1, y1, x2, y2 = window
        page = self._page
        if self._mapped:
            shape = page.imagelength, page.imagewidth, page.samplesperpixel
            dtype = page.dtype.newbyteorder(self._file.byteorder)
            where: dict[str, Any] = {"mode": "r", "dtype": dtype, "shape": shape, "offset": page.dataoffsets[0]}
            values = np.array(np.memmap(self._file.filehandle.path, **where)[y1:y2, x1:x2]).astype(page.dtype)
            return to_rgb(_to_image(page, values))
        values = np.zeros((y2 - y1, x2 - x1, page.samplesperpixel), page.dtype)
        high, wide = self._grid
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        across, down = -(-page.imagewidth // wide), -(-page.imagelength // high)
        for plane in range(planes):
            for row in range(y1 // high, -(-y2 // high)):
                for column in range(x1 // wide, -(-x2 // wide)):
                    piece = self._piece((plane * down + row) * across + column)
                    top, left = row * high, column * wide
                    part = piece[max(y1 - top, 0) : y2 - top, max(x1 - left, 0) : x2 - left]
                    y, x = max(top - y1, 0), max(left - x1, 0)
                    into = values[..., plane : plane + 1] if planes > 1 else values
                    into[y : y + part.shape[0], x : x + part.shape[1]] = part
        return to_rgb(_to_image(page, values))

    def _piece(self, index: int) -> np.ndarray:
        """Returns a strip or tile (h, w, samples), decoded; one that the file leaves out is zero."""
        if index in self._pieces:
            self._pieces.move_to_end(index)
            return self._pieces[index]
        page = self._page
        self._file.filehandle.seek(page.dataoffsets[index])
        data = self._file.filehandle.read(page.databytecounts[index])
        if len(data) < page.databytecounts[index]:
            raise ValueError("the file ends early")
        decoded, _, shape = page.decode(data or None, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        piece = np.zeros(shape[1:], page.dtype) if decoded is None else decoded[0]
        self._pieces[index] = piece
        while len(self._pieces) > 1 and sum(piece.nbytes for piece in self._pieces.values()) > 2 * _PIECE:
            self._pieces.popitem(last=False)
        return piece


def _to_image(page: Any, values: np.ndarray) -> Image.Image:
    """Makes a Pillow image of values (h, w, samples), as Pillow itself reads that kind of TIFF."""
    kind, bits, samples = page.photometric.name, page.bitspersample, values.shape[2]
    extra = page.extrasamples[0] if page.extrasamples else None
    if values.dtype.kind == "f":
        raise PixelRangeError("its pixels are floats, which have no fixed range; save it with 8 or 16 bits")
    if values.dtype.kind not in "bu" or bits not in (1, 2, 4, 8, 16):
        raise PixelRangeError(f"its pixels are {values.dtype} values; save it with 8 or 16 bits")
    if kind in ("MINISBLACK", "MINISWHITE"):
        grey = values[..., 0]
        if bits < 8:
            grey = grey.astype(np.uint8) * (255 // (2**bits - 1))
        if kind == "MINISWHITE":
            grey = np.iinfo(grey.dtype).max - grey
        if extra and samples > 1 and bits == 8:
            return Image.fromarray(np.ascontiguousarray(np.stack((grey, values[..., 1]), axis=-1)))
        return Image.fromarray(np.ascontiguousarray(grey))
    if kind == "PALETTE":
        colors = (page.colormap >> 8).astype(np.uint8).T  # (2^bits, 3)
        colored = colors[values[..., 0]]
        if samples > 1 and extra:
            return _as_mode("RGBA", np.dstack((colored, values[..., 1])))
        return _as_mode("RGB", colored)
    if bits == 16:
        values = (values >> 8).astype(np.uint8)
    if kind == "SEPARATED" and samples == 4:
        return _as_mode("CMYK", values)
    if (kind == "RGB" or (kind == "YCBCR" and page.compression.name == "JPEG")) and samples >= 3:
        if samples == 3 or extra == 0:
            return _as_mode("RGB", values[..., :3])
        return _as_mode("RGBa" if extra == 1 else "RGBA", values[..., :4])
    raise PixelRangeError(f"its pixels are of the kind {kind} with {samples} values each; save it as RGB")


def _as_mode(mode: str, values: np.ndarray) -> Image.Image:
    height, width = values.shape[:2]
    return Image.frombytes(mode, (width, height), np.ascontiguousarray(values).tobytes())
