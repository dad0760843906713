"""Prediction: a trained detector as an object, and what the ``predict`` command does with it."""

from mimicdet.predict.detector import Detection, Detector
from mimicdet.predict.files import PredictSummary, find_images, predict_files

__all__ = ["Detection", "Detector", "PredictSummary", "find_images", "predict_files"]
