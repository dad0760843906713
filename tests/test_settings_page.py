"""docs/settings.md is what docs/make_settings.py writes; every setting is explained, and somebody needs it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from mimicdet.config import SETTINGS_OF, MimicDetSettings, Settings, fields_of
from mimicdet.lab.study.plan import plan
from mimicdet.lab.study.study_file import read_study, sizes_of
from mimicdet.settings_file import FIELDS, SECTIONS, load_settings, preset_names

DOCS = Path(__file__).parent.parent / "docs"
STUDIES = sorted((DOCS.parent / "studies").glob("*.yaml"))


def test_the_page_is_as_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("make_settings", DOCS / "make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == module.page(), "run: python docs/make_settings.py"


@pytest.mark.parametrize("family", SETTINGS_OF)
def test_every_setting_is_explained_and_on_the_page(family: str) -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    for name, info in fields_of(SETTINGS_OF[family]).items():
        assert info.description, name
        assert " ".join(info.description.split()) in page.replace("\\|", "|"), name
        assert f"| `{name}` " in page


@pytest.mark.parametrize("family", SETTINGS_OF)
def test_sentences_stand_by_themselves_and_are_short(family: str) -> None:
    texts = {name: info.description or "" for name, info in fields_of(SETTINGS_OF[family]).items()}
    for section in SECTIONS:
        if section in SETTINGS_OF[family].model_fields:
            texts[section] = SETTINGS_OF[family].model_fields[section].annotation.__doc__ or ""  # type: ignore[union-attr]
    for name, text in texts.items():
        assert text.split()[0] not in ("Of", "What", "Which", "How", "Where", "Those", "Whose", "As"), name
        for sentence in " ".join(text.split()).split(". "):
            assert len(sentence.split()) <= 35, (name, sentence)


def test_every_setting_is_used_or_needed() -> None:
    """A preset or a study gives it another value than the default, or a page names whose case it is."""
    studies = [(file, read_study(file, size)) for file in STUDIES for size in sizes_of(file) or [None]]
    planned = [job.settings for file, study in studies for job in plan(study, file, Path("runs"))]
    used = {name for settings in planned for name in changed(settings)}
    used |= {name for preset in preset_names() for name in changed(load_settings(preset=preset))}
    assert {"optim.lr", "distill.rank_score", "mimic.weighting", "one_stage.boxes", "model.head_groups"} <= used
    assert "distill.rank_which" not in used  # or this test says nothing
    pages = [page for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md") if page.name != "settings.md"]
    told = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert [name for name in FIELDS if name not in used and re.search(rf"`{name}\b", told) is None] == []


def changed(settings: Settings) -> list[str]:
    """Names of the settings that have another value than their default."""
    fields = fields_of(type(settings))
    values = settings.model_dump()
    flat = {f"{s}.{k}": v for s, part in values.items() if isinstance(part, dict) for k, v in part.items()}
    found = [name for name, value in ({"task": settings.task} | flat).items() if value != fields[name].default]
    return found if isinstance(settings, MimicDetSettings) else ["model.family", *found]
