"""The whole of a run's settings: one class a family of detectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mimicdet.config.mimicdet import MimicDetSettings
from mimicdet.config.rivals import DenseSettings, FasterRcnnSettings

Settings = MimicDetSettings | DenseSettings | FasterRcnnSettings
"""Everything a run depends on, apart from the data."""

_CLASSES: tuple[type[Settings], ...] = (MimicDetSettings, *DenseSettings.__subclasses__(), FasterRcnnSettings)

SETTINGS_OF = {cls.model_fields["model"].default.family: cls for cls in _CLASSES}
"""The class of settings of each family, by the name that ``model.family`` has. Every class of a dense family is one."""


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Makes settings of nested plain values such as ``{"model": {"family": "fcos"}}``; the others have their defaults.

    Raises:
        ValidationError: pydantic's, for a value or a key that is none of the family's settings.
        KeyError: the family does not exist.
    """
    family = values.get("model", {}).get("family", "mimicdet")
    # By way of JSON because strict validation of Python values takes no list for a tuple
    return SETTINGS_OF[family].model_validate_json(json.dumps(values, default=str))


def fields_of(section: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Returns every setting of a family's class, or of a section, by its dotted name and in order."""
    fields: dict[str, FieldInfo] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            fields |= fields_of(field.annotation, f"{prefix}{name}.")
        else:
            fields[prefix + name] = field
    return fields
