"""The whole of a run's settings: one class a family of detectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mimicdet.config import rivals
from mimicdet.config.mimicdet import MimicDetSettings

Settings = (
    MimicDetSettings
    | rivals.RetinaNetSettings
    | rivals.FcosSettings
    | rivals.AtssSettings
    | rivals.GflSettings
    | rivals.FasterRcnnSettings
)
"""Everything a run depends on, apart from the data. A new family of detectors is one more line here."""

SETTINGS_OF: dict[str, type[Settings]] = {cls.model_fields["model"].default.family: cls for cls in get_args(Settings)}
"""The class of settings of each family, by the name that ``model.family`` has."""


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
