"""Makes tables for terminals and for Markdown files, and the two tables of an evaluation."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mimicdet.errors import one_line

Style = Literal["text", "markdown"]

_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, style: Style = "text") -> str:
    """Returns lines of aligned columns: the first to the left, the others, which hold numbers, to the right.

    A cell is one line of at most 80 characters, whatever stands in it (see ``mimicdet.errors.one_line``).
    ``style`` is ``text`` for terminals, or ``markdown``; both are aligned where characters are equally wide.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells, the header {len(header)}: {list(row)}")
    cells = [[one_line(cell.replace("\n", " ")) for cell in row] for row in (header, *rows)]
    return (_markdown if style == "markdown" else _text)(cells)


def _text(rows: Sequence[Sequence[str]]) -> str:
    (head, *body), widths = _aligned(rows, least=0)
    return "\n".join("  ".join(line).rstrip() for line in (head, ["-" * width for width in widths], *body))


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    (head, *body), widths = _aligned(rows, least=3)  # room for the rule's dashes
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def _aligned(rows: Sequence[Sequence[str]], *, least: int) -> tuple[list[list[str]], list[int]]:
    widths = [max(least, *map(_width, column)) for column in zip(*rows, strict=True)]

    def padded(cell: str, column: int) -> str:
        space = " " * (widths[column] - _width(cell))
        return space + cell if column else cell + space

    return [[padded(cell, column) for column, cell in enumerate(row)] for row in rows], widths


def _width(text: str) -> int:
    """Returns the columns of a terminal that a text takes: East Asian wide characters two, combining ones none."""
    wide = [unicodedata.east_asian_width(c) in ("W", "F") for c in text if not unicodedata.combining(c)]
    return len(wide) + sum(wide)


def metrics_table(results: Mapping[str, Mapping[str, Any]], *, style: Style = "text") -> str:
    """Returns a table of COCO's twelve numbers in points (AP 0.39 is 39.0), one row for each result.

    Args:
        results: name of the row, such as ``S-head`` -> the content of ``Metrics.to_json()`` or of the file that
            ``mimicdet eval --json`` writes. A number that is missing or undefined (-1) is a dash.
        style: see ``table``.
    """
    rows = [[title, *(points(result.get(name)) for name in _NUMBERS)] for title, result in results.items()]
    return table(["", *_NUMBERS], rows, style=style)


def class_table(result: Mapping[str, Any], *, style: Style = "text") -> str:
    """Returns a table of each class's AP and AP50 in points, in the order of the classes; see ``metrics_table``."""
    at_half = result["per_class_AP50"]
    rows = [[name, points(value), points(at_half[name])] for name, value in result["per_class_AP"].items()]
    return table(["class", "AP", "AP50"], rows, style=style)


def points(value: float | None) -> str:
    """Returns a fraction as points with one decimal, or a dash where it is missing or undefined (negative)."""
    return "-" if value is None or value < 0 else f"{100 * value:.1f}"
