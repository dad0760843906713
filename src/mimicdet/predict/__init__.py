"""Prediction: a trained detector as an object, and what the ``predict`` command does with it."""

from mimicdet.predict.detector import Detection, Detector
from mimicdet.predict.files import PredictSummary, files_left_out, find_images, predict_files

__all__ = ["Detection", "Detector", "PredictSummary", "files_left_out", "find_images", "predict_files"]
