"""All settings, typed and strict: an unknown key or a wrong type is an error that names it.

A *preset* is a complete YAML file of these settings (``mimicdet/presets``). Nothing inherits: what a
preset does not state is the default, and the resolved whole is written into every run folder.
Models never see these objects; ``mimicdet.build`` turns them into modules.
"""

from mimicdet.config.detector import (
    AssignSettings,
    DistillSettings,
    Family,
    LossSettings,
    MimicSettings,
    ModelSettings,
    OneStageSettings,
    TeacherSettings,
)
from mimicdet.config.run import DataSettings, InferenceSettings, OptimSettings, TrainSettings
from mimicdet.config.settings import Settings, meaningless

__all__ = [
    "AssignSettings",
    "DataSettings",
    "DistillSettings",
    "Family",
    "InferenceSettings",
    "LossSettings",
    "MimicSettings",
    "ModelSettings",
    "OneStageSettings",
    "OptimSettings",
    "Settings",
    "TeacherSettings",
    "TrainSettings",
    "meaningless",
]
