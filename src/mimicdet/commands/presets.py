"""Has the command ``mimicdet presets``."""

from typing import Annotated

from pydantic.dataclasses import dataclass

from mimicdet.commands.parser import DOCUMENTED, Argument

EXAMPLES = """\
mimicdet presets                        what each preset is for
mimicdet presets small > mine.yaml      a preset as a file to edit, then: mimicdet train DATA --config mine.yaml
"""


@dataclass(frozen=True, kw_only=True, config=DOCUMENTED)
class Presets:
    """Lists the presets with command, cost and expected accuracy, or prints one in full."""

    name: Annotated[str | None, Argument("NAME", positional=True)] = None
    """The YAML file of this preset is printed."""

    def run(self) -> int:
        from mimicdet.settings_file import preset_file, preset_header, preset_names

        if self.name is not None:
            print(preset_file(self.name).read_text(encoding="utf-8"), end="")
            return 0
        for name in preset_names():
            print("\n".join([name, *(f"    {line}".rstrip() for line in preset_header(name)), ""]))
        return 0
