"""The demo's data set: two aerial photographs with every tree crown marked, laid out as ``mimicdet`` reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

from mimicdet.weights.pypi import Wheel, member

TREES = Wheel(  # MIT licence; aerial photographs of the NEON site YELL with tree crowns as VOC XML
    "deepforest==2.1.0",
    "deepforest-2.1.0-py3-none-any.whl",
    "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
)
IMAGES = {  # split -> image in the wheel: 2299 x 2472 pixels with 574 trees, and 1249 x 1035 with 279
    "train": "2019_YELL_2_528000_4978000_image_crop2",
    "test": "2019_YELL_2_541000_4977000_image_crop",
}


def unpack_trees(wheel: Path, folder: Path) -> Path:
    """PASCAL VOC files beside their images in ``folder/train`` and ``folder/test``; what was there is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    for split, name in IMAGES.items():
        (folder / split).mkdir(parents=True)
        for suffix in (".png", ".xml"):
            (folder / split / (name + suffix)).write_bytes(member(wheel, f"deepforest/data/{name}{suffix}"))
    return folder
