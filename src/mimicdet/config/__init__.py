"""All settings, typed and strict: an unknown key or a wrong type is an error that names it.

A *preset* is a complete YAML file of these settings (``mimicdet/presets``). Nothing inherits: what a preset does not
state is the default, and the resolved whole is written into every run folder. A family of detectors has a class of its
own with the settings that it reads, so none can be given that would go unread. Models never see these objects;
``mimicdet.build`` turns them into modules.
"""

from mimicdet.config.distill import DistillSettings
from mimicdet.config.mimicdet import AssignSettings, LossSettings, MimicDetSettings, MimicSettings, TeacherSettings
from mimicdet.config.rivals import (
    AtssSettings,
    DenseSettings,
    FasterRcnnSettings,
    FcosSettings,
    GflSettings,
    RetinaNetSettings,
)
from mimicdet.config.run import DataSettings, InferenceSettings, OptimSettings, TrainSettings
from mimicdet.config.settings import SETTINGS_OF, Settings, fields_of, settings_from
from mimicdet.config.trunk import TrunkSettings

__all__ = [
    "SETTINGS_OF",
    "AssignSettings",
    "AtssSettings",
    "DataSettings",
    "DenseSettings",
    "DistillSettings",
    "FasterRcnnSettings",
    "FcosSettings",
    "GflSettings",
    "InferenceSettings",
    "LossSettings",
    "MimicDetSettings",
    "MimicSettings",
    "OptimSettings",
    "RetinaNetSettings",
    "Settings",
    "TeacherSettings",
    "TrainSettings",
    "TrunkSettings",
    "fields_of",
    "settings_from",
]
