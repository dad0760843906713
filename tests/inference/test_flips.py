"""Mirrored views: images, boxes, and what is found in all of them together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mimicdet.build import build_model
from mimicdet.config import InferenceSettings, MimicDetSettings
from mimicdet.inference.decode import Detections
from mimicdet.inference.detect import detect
from mimicdet.inference.flips import detect_in_views, mirror_boxes, mirror_images

SIZES = torch.tensor([[5, 7], [8, 4], [6, 9], [1, 1]])


def canvas(dtype: torch.dtype = torch.uint8) -> Tensor:
    images = torch.zeros(len(SIZES), 3, 8, 9, dtype=dtype)
    for i, (height, width) in enumerate(SIZES.tolist()):
        images[i, :, :height, :width] = torch.randint(1, 255, (3, height, width), generator=torch.Generator())
    return images


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("left_right", "top_bottom"), [(False, False), (True, False), (False, True), (True, True)])
def test_each_image_is_mirrored_inside_its_own_part(left_right: bool, top_bottom: bool, dtype: torch.dtype) -> None:
    images = canvas(dtype)
    mirrored = mirror_images(images, SIZES, left_right=left_right, top_bottom=top_bottom)
    dims = [dim for dim, flipped in ((1, top_bottom), (2, left_right)) if flipped]
    for i, (height, width) in enumerate(SIZES.tolist()):
        assert torch.equal(mirrored[i, :, :height, :width], images[i, :, :height, :width].flip(dims))
        assert not mirrored[i, :, height:].any()
        assert not mirrored[i, :, :, width:].any()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31), st.booleans(), st.booleans())
def test_boxes_follow_the_pixels_they_frame(
    height: int, width: int, seed: int, left_right: bool, top_bottom: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x1, y1 = (int(torch.randint(0, n, (), generator=generator)) for n in (width, height))
    x2, y2 = (int(torch.randint(a + 1, n + 1, (), generator=generator)) for a, n in ((x1, width), (y1, height)))
    image = torch.zeros(1, 3, 40, 40)
    image[0, :, y1:y2, x1:x2] = 1
    size = torch.tensor([height, width])
    mirrored = mirror_images(image, size[None], left_right=left_right, top_bottom=top_bottom)
    box = torch.tensor([[x1, y1, x2, y2]], dtype=torch.float64)
    (found,) = mirror_boxes(box, size, left_right=left_right, top_bottom=top_bottom).tolist()
    rows, columns = mirrored[0, 0].nonzero(as_tuple=True)
    assert found == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert torch.equal(
        mirror_boxes(torch.tensor([found]), size, left_right=left_right, top_bottom=top_bottom), box.float()
    )


def frames_of_bright_quarters(images: Tensor, sizes: Tensor) -> list[Detections]:
    """A detector that only looks at the upper left quarter, where it frames what is brighter than half."""
    found = []
    for image, (height, width) in zip(images, sizes.tolist(), strict=True):
        rows, columns = (image[0, : height // 2, : width // 2] > 0.5).nonzero(as_tuple=True)
        n = min(1, len(rows))
        frame = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if n else []
        score = image[0, rows[:n], columns[:n]]
        found.append(Detections(torch.tensor(frame).reshape(n, 4).float(), score, torch.zeros(n, dtype=torch.int64)))
    return found


@pytest.mark.parametrize(("flips", "seen"), [("none", [0]), ("horizontal", [1, 0]), ("all", [3, 2, 1, 0])])
def test_objects_that_one_view_hides_are_found_in_another(flips: str, seen: list[int]) -> None:
    """One object in each quarter, the later ones brighter; the best score comes first."""
    boxes = torch.tensor([[2.0, 3, 6, 8], [20, 1, 26, 5], [4, 15, 7, 19], [17, 14, 28, 16]])
    images = torch.zeros(2, 3, 32, 32)
    for k, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
        images[0, :, y1:y2, x1:x2] = 0.6 + k / 10
    sizes = torch.tensor([[20, 30], [32, 32]])
    inference = InferenceSettings(flips=flips, nms_iou=0.5, max_detections=9)  # type: ignore[arg-type]
    first, second = detect_in_views(lambda views: frames_of_bright_quarters(views, sizes), images, sizes, inference)
    assert torch.equal(first.boxes, boxes[seen])
    torch.testing.assert_close(first.scores, torch.tensor([0.6 + k / 10 for k in seen]))
    assert len(second.scores) == 0


def test_of_what_several_views_find_the_best_is_kept_and_only_within_its_class() -> None:
    views = iter(
        [
            ([10.0, 10, 20, 20], 0.5, 0),
            ([11.0, 10, 20, 20], 0.4, 0),
            ([10.0, 10, 20, 20], 0.7, 0),
            ([10.0, 10, 20, 20], 0.6, 1),
        ]
    )

    def detect_next(_: Tensor) -> list[Detections]:
        box, score, label = next(views)
        return [Detections(torch.tensor([box]), torch.tensor([score]), torch.tensor([label]))]

    sizes = torch.tensor([[30, 30]])  # the box lies in the middle, so that mirroring leaves it or moves it by 1 pixel
    images = torch.zeros(1, 3, 32, 32)
    (found,) = detect_in_views(detect_next, images, sizes, InferenceSettings(flips="all", max_detections=9))
    assert found.boxes.tolist() == [[10, 10, 20, 20], [10, 10, 20, 20]]
    assert found.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.7, 0.6]))
    views = iter([([0.0, 0, 5, 5], 0.5, 0), ([0.0, 0, 5, 5], 0.9, 0)])
    (found,) = detect_in_views(detect_next, images, sizes, InferenceSettings(flips="horizontal", max_detections=1))
    assert found.boxes.tolist() == [[25, 0, 30, 5]]


@pytest.mark.parametrize("left_right", [False, True])
def test_a_mirrored_image_gives_the_mirrored_detections(left_right: bool) -> None:
    """With all four views every mirrored image is seen the same, whatever the model."""
    torch.manual_seed(0)
    settings = MimicDetSettings.Model(
        backbone="resnet18",
        weights="random",
        pyramid_channels=16,
        head_channels=16,
        head_features=32,
        head_init="he",
        freeze_batch_norm=False,
    )
    model = build_model(settings, num_classes=2).double().eval()
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    sizes = torch.tensor([[64, 80], [50, 96]])
    for i, (height, width) in enumerate(sizes.tolist()):
        images[i, :, height:], images[i, :, :, width:] = 0, 0
    options = {"positions": 80, "score_threshold": 0.1, "nms_iou": 0.5, "max_detections": 20}
    one_view, all_views = (InferenceSettings(flips=flips, **options) for flips in ("none", "all"))  # type: ignore[arg-type]
    mirror = {"left_right": left_right, "top_bottom": True}
    with torch.no_grad():
        plain = detect(model, images, sizes, all_views)
        turned = detect(model, mirror_images(images, sizes, **mirror), sizes, all_views)
        once = detect(model, images, sizes, one_view)
    for a, b, c, size in zip(plain, turned, once, sizes, strict=True):
        assert len(a.scores) > 5
        torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-10)
        torch.testing.assert_close(a.boxes, mirror_boxes(b.boxes, size, **mirror), rtol=0, atol=1e-8)
        assert not torch.equal(a.scores, c.scores)
