"""All settings, typed and strict: an unknown key or a wrong type is an error that names it.

A *preset* is a complete YAML file of these settings (``mimicdet/presets``). Nothing inherits: what a preset does not
state is the default, and the resolved whole is written into every run folder. A family of detectors has a class of its
own with the settings that it reads, so none can be given that would go unread. Models never see these objects;
``mimicdet.build`` turns them into modules.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mimicdet.config.distill import DistillSettings
from mimicdet.config.mimicdet import AssignSettings, LossSettings, MimicDetSettings, MimicSettings, TeacherSettings
from mimicdet.config.rivals import DenseSettings, FasterRcnnSettings
from mimicdet.config.run import DataSettings, InferenceSettings, OptimSettings, TrainSettings, TrunkSettings

__all__ = [
    "SETTINGS_OF",
    "AssignSettings",
    "DataSettings",
    "DenseSettings",
    "DistillSettings",
    "FasterRcnnSettings",
    "InferenceSettings",
    "LossSettings",
    "MimicDetSettings",
    "MimicSettings",
    "OptimSettings",
    "Settings",
    "TeacherSettings",
    "TrainSettings",
    "TrunkSettings",
    "fields_of",
    "settings_from",
]

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
