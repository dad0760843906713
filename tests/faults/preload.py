"""What the server of forked.py imports before it forks."""

import tests.faults.cases
import tests.faults.hooks
import tests.faults.works  # noqa: F401
