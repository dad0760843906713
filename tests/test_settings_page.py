"""docs/settings.md is what docs/make_settings.py writes, and leaves no setting unexplained."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mimicdet.settings_file import FIELDS

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_as_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("make_settings", DOCS / "make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == module.page(), "run: python docs/make_settings.py"


def test_every_setting_is_explained_and_on_the_page() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    for name, info in FIELDS.items():
        assert info.description, name
        assert f"| `{name}` " in page
