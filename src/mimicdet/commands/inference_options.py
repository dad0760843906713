"""``--inference.key value`` of the commands that use a trained model: the settings of that section, none repeated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from mimicdet.commands.parser import COMMAND_LINE, SettingsOptions
from mimicdet.config import InferenceSettings
from mimicdet.settings_file import Layer, resolve

InferenceOptions = Annotated[
    dict[str, Any],
    SettingsOptions("inference.", title="These are stored with the model; what is given here is used instead."),
]
"""The type of a command's field that holds what is given."""


def with_options(settings: InferenceSettings, given: Mapping[str, Any], model: Path) -> InferenceSettings:
    """Returns the settings of ``model`` with what was given on the command line in their place."""
    stored = {f"inference.{key}": value for key, value in settings.model_dump(mode="json").items()}
    return resolve([Layer(f"in {model}", stored), Layer(COMMAND_LINE, dict(given))]).inference
