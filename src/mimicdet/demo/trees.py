"""The demo's data set: two aerial photographs with every tree crown marked, laid out as ``mimicdet`` reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

from mimicdet.demo.fetch import member

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
