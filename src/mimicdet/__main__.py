"""``python -m mimicdet`` (and ``torchrun -m mimicdet``) is the ``mimicdet`` command."""

import sys

from mimicdet.cli import main

if __name__ == "__main__":
    sys.exit(main())
