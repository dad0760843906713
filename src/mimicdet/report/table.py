"""Tables for terminals and for Markdown files, and the two of an evaluation."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Style = Literal["text", "markdown"]

_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, style: Style = "text") -> str:
    """Lines of aligned columns: the first to the left, the others, which hold numbers, to the right.

    Args:
        header: one name a column.
        rows: as many cells each.
        style: ``text`` for terminals, or ``markdown``; both are aligned where characters are equally wide.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells, the header {len(header)}: {list(row)}")
    cells = [list(header), *map(list, rows)]
    if style == "markdown":
        cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in cells]
    narrowest = 3 if style == "markdown" else 0  # room for the rule's dashes
    widths = [max(narrowest, *(_width(row[c]) for row in cells)) for c in range(len(header))]
    lines = [[_padded(cell, widths[c], left=c == 0) for c, cell in enumerate(row)] for row in cells]
    if style == "text":
        rule = ["-" * width for width in widths]
        return "\n".join("  ".join(line).rstrip() for line in [lines[0], rule, *lines[1:]])
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def metrics_table(results: Mapping[str, Mapping[str, Any]], *, style: Style = "text") -> str:
    """COCO's twelve numbers in points (AP 0.39 is 39.0), one row for each result.

    Args:
        results: name of the row, such as ``S-head`` -> the content of ``Metrics.to_json()`` or of the file that
            ``mimicdet eval --json`` writes. A number that is missing or undefined (-1) is a dash.
        style: see ``table``.
    """
    return table(
        ["", *_NUMBERS],
        [[title, *(points(result.get(name)) for name in _NUMBERS)] for title, result in results.items()],
        style=style,
    )


def class_table(result: Mapping[str, Any], *, style: Style = "text") -> str:
    """AP and AP50 of each class in points, in the order of the classes; arguments as for ``metrics_table``."""
    at_half = result["per_class_AP50"]
    rows = [[name, points(value), points(at_half[name])] for name, value in result["per_class_AP"].items()]
    return table(["class", "AP", "AP50"], rows, style=style)


def points(value: float | None) -> str:
    """A fraction as points with one decimal; a dash for what is missing or undefined (negative)."""
    return "-" if value is None or value < 0 else f"{100 * value:.1f}"


def _padded(text: str, width: int, *, left: bool) -> str:
    space = " " * (width - _width(text))
    return text + space if left else space + text


def _width(text: str) -> int:
    """Columns of a terminal: East Asian wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )
