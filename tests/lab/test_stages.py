from __future__ import annotations

import torch

from mimicdet.config import InferenceSettings
from mimicdet.inference.decode import decode
from mimicdet.lab.bench import STAGES, stages
from tests.fakes.tiny import tiny_detector


@torch.inference_mode()
def test_the_stages_are_the_prediction_cut_into_parts() -> None:
    model = tiny_detector().eval()
    images, sizes = torch.rand(2, 3, 96, 128), torch.tensor([[96, 128], [64, 100]])
    inference = InferenceSettings(positions=50, score_threshold=0.01)
    parts = stages(model, images, sizes, inference)
    assert tuple(parts) == STAGES
    whole = model(images, sizes, top=50)
    output = parts["s_head"]()
    for found, expected in zip(output, whole, strict=True):  # type: ignore[arg-type, call-overload]
        assert torch.equal(found, expected)
    detections = decode(whole, sizes, inference)
    for found, expected in zip(parts["decode"](), detections, strict=True):  # type: ignore[arg-type, call-overload]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    refined = model.refine(images, sizes)
    assert torch.equal(parts["refinement"]().objectness, refined.objectness)  # type: ignore[attr-defined]
    for a, b in zip(parts["pyramid"]().levels, refined.pyramid.levels, strict=True):  # type: ignore[attr-defined]
        assert torch.equal(a, b)
