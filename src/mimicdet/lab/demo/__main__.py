"""``python -m mimicdet.lab.demo``."""

import sys

from mimicdet.cli import guarded
from mimicdet.commands.parser import parse_as
from mimicdet.lab.demo.run import Demo

if __name__ == "__main__":
    sys.exit(guarded(lambda: parse_as(Demo, "python -m mimicdet.lab.demo", sys.argv[1:]).run()))
