"""Results for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mimicdet.errors import UserError
from mimicdet.files import replace_file, require_writable


def require_own_file(file: Path | None, *inputs: Path) -> None:
    """UserError where ``--json`` names what cannot be written, or a file that is one of the inputs or in one."""
    if file is None:
        return
    require_writable(file)
    for path in inputs:
        if file.exists() and file.resolve().is_relative_to(path.resolve()):
            raise UserError(f"{file} belongs to {path}, which is read; --json would overwrite it: name another file")


def write_json(file: Path, content: Any) -> None:
    """Writes ``content`` whole or not at all, making folders as needed; NaN becomes null, as JSON has none."""
    text = json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}; give another file") from error
    replace_file(file, text.encode())


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and content != content else content
