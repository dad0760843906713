"""Reads the descriptions beside weights, ``model.json`` and those of exported files, and believes none of them."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
)

from mimicdet.data.dataset import Category
from mimicdet.data.raw import unique_fields
from mimicdet.errors import UserError

FORMAT_VERSION = 1
MOST_BYTES = 4 * 2**20
"""No description is larger, which has room for 60,000 classes; whatever it holds is read or refused within seconds."""
_MOST_LETTERS = 100_000


class Part(BaseModel):
    """A strict part of a description: a value of another type is an error, a key that is not known is passed over."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class _Versioned(Part):
    format_version: Annotated[int, Field(ge=1)]


class _Class(Part):
    id: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    name: Annotated[str, Field(pattern=r"\S")]


_CLASSES = TypeAdapter(Annotated[list[_Class], Field(min_length=1), FailFast()])  # millions of faults take gigabytes


def _to_categories(raw: object) -> tuple[Category, ...]:
    try:
        classes = _CLASSES.validate_python(raw)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from error
    for what in ("id", "name"):
        seen: set[object] = set()
        for value in (getattr(one, what) for one in classes):
            if value in seen:
                raise ValueError(f"two classes have the {what} {value!r}")
            seen.add(value)
    return tuple(Category(id=one.id, name=one.name) for one in classes)


Classes = Annotated[tuple[Category, ...], PlainValidator(_to_categories)]
"""The categories of a description: one at least, with ids and names that differ."""


def _require_short(values: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(values)) > _MOST_LETTERS:
        raise ValueError(f"more than {_MOST_LETTERS:,} letters are no settings")
    return values


Values = Annotated[dict[str, Any], AfterValidator(_require_short)]
"""A section of settings, whose own types are for whoever reads them; no more values than could be settings."""

P = TypeVar("P", bound=Part)


def read_part(file: Path, kind: type[P], *, way_out: str) -> P:
    """Reads a description of at most ``MOST_BYTES``.

    Raises:
        UserError: it cannot be read, is of a newer version, or is broken, for which ``way_out`` is the way out.
    """
    try:
        if (size := file.stat().st_size) > MOST_BYTES:
            raise UserError(f"{file} is broken ({size:,} bytes are more than any description has); {way_out}")
        numbers: dict[str, Any] = {"parse_constant": _number, "parse_float": _number}
        raw = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=unique_fields, **numbers)
        version = _Versioned.model_validate(raw).format_version
        if version > FORMAT_VERSION:
            raise UserError(f"{file} has format version {version}, newer than {FORMAT_VERSION}; update mimicdet")
        return kind.model_validate(raw)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); correct its permissions") from error
    except (ValueError, RecursionError) as error:  # pydantic's error is a ValueError, and so are those of JSON
        raise UserError(f"{file} is broken ({_why(error)}); {way_out}") from error


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, ValidationError):
        return first_fault(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is no text in UTF-8"
    if not isinstance(error, json.JSONDecodeError):
        return "a number in it has too many digits" if str(error).startswith("Exceeds the limit") else str(error)
    if not error.doc.strip():
        return "it is empty"
    cut_off = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
    return "it is cut off" if cut_off else f"it is no JSON at line {error.lineno}"


def first_fault(error: ValidationError) -> str:
    """Returns the first fault that pydantic found, such as ``categories.0.id: Input should be a valid integer``."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    why = str(first["msg"]).removeprefix("Value error, ")
    why = why.partition(" or instance of ")[0]  # of a class that is known here alone
    if first["type"] == "model_type" and not where:
        why = "it should hold names and values in braces"
    return f"{where}: {why}" if where else why


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no finite number")
    return number
