"""Makes sure before an exported file is loaded that it reads nothing outside its folder, whatever its runtime allows.

ONNX may keep tensors in other files, which it names. The file is walked as protobuf's wire format, so that this needs
no package; what is not well formed is refused, and not guessed at.
"""

from collections.abc import Iterator
from pathlib import Path

from defusedxml.ElementTree import iterparse

from mimicdet.errors import UserError
from mimicdet.files import real_path
from mimicdet.streams import require_plain

PARTS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "StringStringEntry"},
}
"""The messages of ONNX through which tensors are reached, by field number, and what says where a tensor's data lie."""
_KEY, _VALUE = 1, 2
_MOST_BYTES = 2**31  # protobuf's own limit
_MOST_FIELDS = 2_000_000
"""Some hundred times those of a large detector."""


def require_onnx_inside(file: Path) -> None:
    """Raises UserError unless the file is well formed and every other file that it names lies in its folder."""
    for name in _external_files(file):
        # A runtime joins the name to the folder, where links and dots may lead out again
        if not (path := file.parent / name).is_file() or not _is_beside(path, file):
            raise UserError(f"{file} keeps weights in {name!r}, which is no file in its folder; export the model again")


def require_openvino_inside(file: Path) -> None:
    """Raises UserError unless the file is OpenVINO's own XML, with its weights (.bin) in the same folder."""
    try:
        with file.open("rb") as stream:
            root = next(iterparse(stream, events=("start",)))[1].tag
    except (ValueError, SyntaxError, StopIteration) as error:  # defusedxml's errors and expat's
        raise UserError(f"{file} cannot be loaded ({error}); export the model again") from error
    if root != "net":
        raise UserError(f"{file} is no OpenVINO model, which begins with <net>; export the model again")
    require_plain(weights := file.with_suffix(".bin"))
    if not weights.is_file() or not _is_beside(weights, file):
        raise UserError(f"{file}: there is no {weights.name} in its folder, where its weights are; keep them together")


def _is_beside(path: Path, file: Path) -> bool:
    """Is ``path``, links followed, in the folder of ``file`` or in that where ``file`` itself is kept, or below?"""
    folders = real_path(file.parent), real_path(file).parent  # caches link each file of a model to one folder
    return any(real_path(path).is_relative_to(folder) for folder in folders)


def _external_files(file: Path) -> set[str]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError("it has more than 2 GiB")
        return {name.decode() for name in _locations(memoryview(file.read_bytes()))}
    except ValueError as error:
        problem = f"it is no whole ONNX file: {error}"
        raise UserError(f"{file} cannot be loaded ({problem}); export the model again") from error


def _locations(model: memoryview) -> Iterator[bytes]:
    left = [("Model", model)]
    fields = 0
    while left:
        kind, content = left.pop()
        if kind == "StringStringEntry":
            texts = [(number, bytes(text)) for number, text in _fields(content)]
            if (_KEY, b"location") in texts:
                yield from (text for number, text in texts if number == _VALUE)
            continue
        for number, part in _fields(content):
            fields += 1
            if fields > _MOST_FIELDS:
                raise ValueError("it has too many parts")
            if number in PARTS[kind]:
                left.append((PARTS[kind][number], part))


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields number and content of each field of a message that may hold messages or text; passes over the others."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        if not 0 < (number := tag >> 3) < 2**29:
            raise ValueError("a field has no valid number")
        kind = tag & 7
        if kind == 0:
            _, position = _varint(message, position)
            yield 0, message[:0]
            continue
        if kind == 2:
            size, position = _varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("a field is of no known type")
        end = position + size
        if end > len(message):
            raise ValueError("a field ends beyond its message")
        yield (number if kind == 2 else 0), message[position:end]
        position = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Returns a number of seven bits a byte, the lowest first, and the position behind it."""
    value = 0
    for index, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise ValueError("a number does not end")
