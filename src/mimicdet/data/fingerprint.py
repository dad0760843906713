"""A name for a split's targets: the same data gives the same fingerprint, whatever the format it is stored in."""

from __future__ import annotations

import hashlib

import numpy as np

from mimicdet.data.dataset import DetectionDataset


def fingerprint(dataset: DetectionDataset) -> str:
    """SHA-256 (64 hex digits) over what training sees: each image's file stem and size, and each object's class
    name, box (float32) and crowd flag.

    Ids, the order of images, objects and classes, and COCO's areas play no part, nor do the pixels.
    """
    names = [name.encode() for name in dataset.class_names]
    images = []
    for record in dataset.images:
        boxes = np.ascontiguousarray(record.boxes, dtype="<f4")
        objects = sorted(
            _joined(names[label], box.tobytes(), b"\1" if crowd else b"\0")
            for label, box, crowd in zip(record.labels.tolist(), boxes, record.crowd.tolist(), strict=True)
        )
        size = f"{record.height}x{record.width}".encode()
        images.append(_joined(record.file.stem.encode("utf-8", "surrogateescape"), size, *objects))
    return hashlib.sha256(_joined(*sorted(images))).hexdigest()


def _joined(*parts: bytes) -> bytes:
    """The parts, each after its length, so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)
