"""What the short versions of the trials share."""

from __future__ import annotations

import pytest

from tests.faults.works import Inputs, make_inputs


@pytest.fixture(scope="package")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("faults") / "inputs")
