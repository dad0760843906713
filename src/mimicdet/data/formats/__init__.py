"""Data set formats: COCO JSON, PASCAL VOC XML and YOLO txt + YAML, read into one `DetectionDataset`."""

from mimicdet.data.formats.load import available_splits, load_dataset
from mimicdet.data.formats.look import find_splits

__all__ = ["available_splits", "find_splits", "load_dataset"]
