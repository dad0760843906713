"""What a part of the trials found, as lines of one table; and the place in docs/reliability.md that holds it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

BEGIN, END = "<!-- table: python -m tests.faults --write -->", "<!-- end of the table -->"
EXAMPLES = 3
"""So many failures of a kind are shown in full."""


@dataclass
class Line:
    """A line counts trials of one kind.

    Of faults that are put in (kills, full disks) something survives or is lost; inputs that are tried are refused,
    accepted right, or fail.
    """

    name: str
    injected: int = 0
    survived: int = 0
    tried: int = 0
    refused: int = 0
    right: int = 0
    seconds: float = 0.0
    note: str = ""
    failures: list[str] = field(default_factory=list)
    """A sentence for each trial that was lost or failed; what comes before its first colon is the kind."""

    @property
    def lost(self) -> int:
        """What was put in and did not survive."""
        return self.injected - self.survived

    @property
    def failed(self) -> int:
        """What was tried and neither refused nor accepted right."""
        return self.tried - self.refused - self.right

    @property
    def ok(self) -> bool:
        """Says whether nothing was lost and nothing failed."""
        return not self.failures and not self.lost and not self.failed

    def survive(self, fault: str | None) -> None:
        """Counts a fault that was put in; None: all was as it should be."""
        self.injected += 1
        if fault is None:
            self.survived += 1
        else:
            self.failures.append(fault)

    def complaints(self) -> list[str]:
        """Returns the kinds of failures with their numbers, and a few of each in full."""
        kinds = Counter(failure.partition(":")[0] for failure in self.failures)
        lines = []
        for kind, count in kinds.most_common():
            lines.append(f"{self.name}: {count} x {kind}")
            examples = [failure for failure in self.failures if failure.partition(":")[0] == kind]
            lines += [f"    {example}" for example in examples[:EXAMPLES]]
        return lines


def table(lines: Sequence[Line]) -> str:
    """Returns the table in Markdown."""
    head = ("what", "injected", "survived", "lost", "tried", "refused", "accepted right", "failed", "seconds")
    rows = [head, ("---", *["---:"] * (len(head) - 1))]
    for line in lines:
        injected = (line.injected, line.survived, line.lost) if line.injected else ("", "", "")
        tried = (line.tried, line.refused, line.right, line.failed) if line.tried else ("", "", "", "")
        note = f" ({line.note})" if line.note else ""
        rows.append((line.name + note, *map(str, (*injected, *tried)), f"{line.seconds:.0f}"))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def write(page: Path, text: str) -> None:
    """Puts text between the two marks of a page."""
    before = page.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(before):
        raise SystemExit(f"{page} has no place for the table: {BEGIN}")
    page.write_text(pattern.sub(lambda _: f"{BEGIN}\n\n{text}\n{END}", before), encoding="utf-8")
