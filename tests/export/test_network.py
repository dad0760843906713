from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mimicdet.build import load_model
from mimicdet.config import InferenceSettings
from mimicdet.export.network import NO_LABEL, DetectingNetwork, RawNetwork, suppress_by_torchvision
from mimicdet.inference.detect import detect


@pytest.mark.parametrize(("height", "width", "top"), [(160, 224, 300), (96, 128, 50), (32, 32, 1000)])
def test_the_network_detects_what_eager_detects(model_folder: Path, height: int, width: int, top: int) -> None:
    model = load_model(model_folder).model
    torch.manual_seed(1)
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    sizes = torch.tensor([[height, width], [height - 9, width - 5]])
    options = {"score_threshold": 0.3, "nms_iou": 0.5, "max_detections": 300}
    network = DetectingNetwork(raw=RawNetwork(model=model, top=top), suppress=suppress_by_torchvision, **options)
    with torch.inference_mode():
        expected = detect(model, images, sizes, InferenceSettings(positions=top, **options))  # type: ignore[arg-type]
        boxes, scores, labels = network(images, sizes)
    assert boxes.shape == (2, 300, 4)
    assert scores.shape == labels.shape == (2, 300)
    for i, found in enumerate(expected):
        n = len(found.scores)
        assert 0 < n < 300
        assert torch.equal(boxes[i, :n], found.boxes)
        assert torch.equal(scores[i, :n], found.scores)
        assert torch.equal(labels[i, :n], found.labels)
        assert (labels[i, n:] == NO_LABEL).all()
        assert not scores[i, n:].any()
        assert not boxes[i, n:].any()
