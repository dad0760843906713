from __future__ import annotations

import pytest
import torch

from mimicdet.config import InferenceSettings
from mimicdet.inference.detect import detect, sizes_or_none
from tests.fakes.tiny import tiny_detector


@pytest.mark.parametrize(
    ("sizes", "fills"), [([[64, 96]], True), ([[64, 96]] * 3, True), ([[64, 96], [64, 95]], False), ([[63, 96]], False)]
)
def test_sizes_matter_only_where_an_image_is_smaller_than_the_canvas(sizes: list[list[int]], fills: bool) -> None:
    images, given = torch.zeros(len(sizes), 3, 64, 96), torch.tensor(sizes)
    found = sizes_or_none(images, given)
    assert found is None if fills else found is given


def test_images_that_fill_the_canvas_are_detected_as_if_nothing_were_known_of_padding() -> None:
    model = tiny_detector().eval()
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen: list[object] = []
    model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    inference = InferenceSettings(positions=100, score_threshold=0.0, nms_iou=0.5, max_detections=20)
    with torch.inference_mode():
        for sizes, known in (([64, 96], False), ([64, 90], True)):
            given = torch.tensor([sizes] * 2)
            found = detect(model, images, given, inference)
            assert (seen[-1] is not None) is known
            limit = torch.tensor([sizes[1], sizes[0]] * 2)
            assert all(len(one.scores) and (one.boxes <= limit).all() for one in found)
    expected = model(images, torch.tensor([[64, 96]] * 2), top=100)
    assert torch.equal(expected.boxes, model(images, None, top=100).boxes)
