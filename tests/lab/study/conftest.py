"""What small studies are trained and measured on."""

from __future__ import annotations

import pytest

from mimicdet.lab.study.outcome import Data
from tests.fakes.toy import toy_data


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("toy")
    train, val = toy_data(folder / "train", images=3), toy_data(folder / "val", images=2)
    return Data(folder, "train", "val", train, val)
