"""The detector as users hold it: any kind of image in, boxes in that image's own pixels out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mimicdet import Detector
from mimicdet.build import build_model
from mimicdet.config import InferenceSettings, MimicDetSettings
from mimicdet.data.dataset import Category, DetectionDataset
from mimicdet.errors import UserError
from mimicdet.models.detector import DetectionModel, Predictions
from mimicdet.predict.detector import Detection, to_pixels
from tests.fakes.detector import CATEGORIES, FakeDetector, make_dataset
from tests.fakes.tiny import tiny_trunk

SMALL = MimicDetSettings.Model(
    backbone="resnet18", weights="random", pyramid_channels=16, head_channels=16, head_features=32
)


@pytest.fixture
def dataset(tmp_path: Path) -> DetectionDataset:
    return make_dataset(tmp_path)


@pytest.fixture
def detector(dataset: DetectionDataset) -> Detector:
    return fake(dataset)


def fake(dataset: DetectionDataset, **inference: Any) -> Detector:
    settings = InferenceSettings(**{"shorter_side": 75, "longer_side": 133, "nms_iou": 1.0} | inference)
    return Detector(model=FakeDetector(dataset), categories=CATEGORIES, settings=SMALL, inference=settings)


def assert_finds_the_objects(result: Detection, dataset: DetectionDataset, index: int) -> None:
    record = dataset.images[index]
    n = len(record.labels)
    torch.testing.assert_close(result["boxes"], torch.from_numpy(record.boxes).float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(result["scores"], torch.tensor([0.9, 0.8, 0.7, 0.6])[:n])
    assert result["labels"].tolist() == [CATEGORIES[k].id for k in record.labels]
    assert result["names"] == [CATEGORIES[k].name for k in record.labels]


def assert_equal(first: list[Detection], second: list[Detection]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for key in ("boxes", "scores", "labels"):
            torch.testing.assert_close(one[key], other[key])
        assert one["names"] == other["names"]


def every_kind(file: Path) -> list[Any]:
    with Image.open(file) as picture:
        picture.load()
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    return [
        file,
        str(file),
        picture,
        picture.convert("L"),
        array,
        array[..., :1],
        array[..., 0],
        array[:, ::-1],
        np.concatenate([array, np.full_like(array[..., :1], 255)], -1),
        array / 255,
        (array / 255).astype(np.float32),
        tensor,
        tensor[:1],
        tensor / 255,
        (tensor / 255).double(),
    ]


def test_every_kind_of_image_gives_the_same(detector: Detector, dataset: DetectionDataset):
    images = every_kind(dataset.images[1].file)
    results = detector(images)
    assert len(results) == len(images)
    for result in results:
        assert_finds_the_objects(result, dataset, 1)


@pytest.mark.parametrize(("flips", "views"), [("none", 1), ("horizontal", 2), ("all", 4)])
def test_flips_asks_for_mirrored_views(dataset: DetectionDataset, flips: str, views: int):
    """The fake detector finds the same boxes in every view, which mirroring back spreads over the image."""
    detector = fake(dataset, flips=flips)
    (result,) = detector(dataset.images[1].file)
    assert isinstance(detector.model, FakeDetector)
    assert len(detector.model.batches) == views
    width = dataset.images[1].width
    boxes = [[tuple(box), (width - box[2], box[1], width - box[0], box[3])] for box in dataset.images[1].boxes.tolist()]
    expected = [box for pair in boxes for box in pair[:views]]
    assert len(result["boxes"]) == 4 * views
    for box in expected:
        assert (result["boxes"] - torch.tensor(box)).abs().amax(1).min() < 1e-3


def test_one_image_or_many_in_any_container(detector: Detector, dataset: DetectionDataset):
    files = [record.file for record in dataset.images]
    for images, indices in (
        (files[0], [0]),
        (str(files[1]), [1]),
        (files, range(5)),
        ((file for file in files), range(5)),
        (np.asarray(Image.open(files[3])), [3]),
        (np.stack([np.asarray(Image.open(files[0]))] * 2), [0, 0]),
        (torch.from_numpy(np.asarray(Image.open(files[4])).copy()).permute(2, 0, 1)[None], [4]),
        ([], []),
    ):
        results = detector(images)
        assert isinstance(results, list)
        assert len(results) == len(list(indices))
        for result, index in zip(results, indices, strict=True):
            assert_finds_the_objects(result, dataset, index)


def test_results_keep_torchvisions_contract(detector: Detector, dataset: DetectionDataset):
    for result in detector([record.file for record in dataset.images]):
        assert list(result) == ["boxes", "scores", "labels", "names"]
        boxes, scores, labels = result["boxes"], result["scores"], result["labels"]
        assert boxes.dtype == scores.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert boxes.shape == (len(scores), 4)
        assert len(labels) == len(result["names"]) == len(scores)
        for tensor in (boxes, scores, labels):
            assert not tensor.is_inference(), "such a tensor cannot be used in training"
            assert tensor.device.type == "cpu"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_batches_are_sorted_by_size_and_results_are_not(dataset: DetectionDataset, batch_size: int):
    detector = fake(dataset, batch_size=batch_size)
    indices = [0, 1, 2, 0, 1, 2, 3, 4, 1]
    results = detector([dataset.images[i].file for i in indices])
    for result, index in zip(results, indices, strict=True):
        assert_finds_the_objects(result, dataset, index)
    assert max(shape[0] for shape in detector.model.batches) == min(batch_size, 9)
    if batch_size == 3:  # the three tall ones together; unsorted, all batches would be 128 x 128
        assert (3, 3, 128, 96) in detector.model.batches


def test_images_are_read_as_they_are_needed(detector: Detector, dataset: DetectionDataset):
    taken = 0

    def images() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield dataset.images[taken % 5].file

    stream = detector.stream(images(), batch_size=2)
    assert_finds_the_objects(next(stream), dataset, 1)
    assert taken == 8
    stream.close()


def test_settings_can_be_overridden_for_a_call(detector: Detector, dataset: DetectionDataset):
    file = dataset.images[0].file
    assert detector(file, score_threshold=0.75)[0]["scores"].tolist() == pytest.approx([0.9, 0.8])
    assert len(detector(file, max_detections=3)[0]["scores"]) == 3
    assert len(detector(file, nms_iou=0.0)[0]["scores"]) < 4
    assert len(detector(file)[0]["scores"]) == 4, "for that call only"
    detector.inference = detector.inference.model_copy(update={"max_detections": 1})
    assert len(detector(file)[0]["scores"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, "score_threshold: input should be less than or equal to 1"),
        ({"nms_iou": -0.1}, "nms_iou"),
        ({"max_detections": 0}, "max_detections"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"tile": 0}, "tile must be a side in pixels"),
        ({"tile": 10.5}, "tile must be a side in pixels from 32 up, not 10.5"),
        ({"tile": "10"}, "tile must be a side in pixels"),
        ({"tile": True}, "tile must be a side in pixels"),
        ({"tile": 40, "overlap": "0.5"}, "overlap must be a share"),
        ({"tile": 40, "overlap": float("nan")}, "overlap must be a share"),
        ({"score_threshold": "0.5"}, "score_threshold"),
        ({"shoulder": 1}, "unexpected keyword argument 'shoulder'"),
        ({"tile": 40, "overlap": 1.0}, "overlap must be a share"),
    ],
)
def test_options_out_of_range_are_refused_at_once(detector: Detector, options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        detector.stream([], **options)


def closed_image() -> Image.Image:
    image = Image.new("RGB", (30, 20))
    image.close()
    return image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"shape \(3, 20, 30\).*channels first as a tensor"),
        (np.zeros((20, 30, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros(20, np.uint8), r"shape \(20,\)"),
        (np.zeros((0, 30, 3), np.uint8), "no pixels"),
        (np.full((20, 30, 3), 128.0), "floats from 128 to 128, which must be in 0..1"),
        (np.full((20, 30, 3), -1.5), "do not normalise"),
        (np.full((20, 30, 3), np.nan), "floats from nan"),
        (np.zeros((20, 30, 3), np.uint16), "uint16 values"),
        (np.zeros((20, 30, 3), bool), "bool values"),
        (torch.zeros(20, 30, 3), r"tensor of shape \(20, 30, 3\)"),
        (torch.zeros(4, 20, 30), r"\(3, height, width\)"),
        (torch.full((3, 20, 30), 2.0), "floats from 2 to 2"),
        (torch.zeros(3, 20, 30, dtype=torch.int64), "int64 values"),
        (torch.zeros(3, 9, 9).to_sparse(), "no plain form"),
        (torch.zeros(3, 9, 9, device="meta"), "no plain form"),
        (np.empty((20, 30, 3), object), "object values"),
        (Image.new("F", (30, 20)), "32-bit floats"),
        (Image.new("RGB", (0, 5)), "no pixels"),
        (closed_image(), "Operation on closed image"),
        (Path("missing.jpg"), "missing.jpg"),
        (None, "of type NoneType"),
        (7, "of type int"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(detector: Detector, image: Any, message: str):
    with pytest.raises(UserError, match=message):
        detector([image])
    if image is not None and not isinstance(image, int):
        with pytest.raises(UserError, match=message):
            detector(image)


def test_a_thing_that_is_no_image_at_all(detector: Detector):
    with pytest.raises(UserError, match="of type int, which must be a path"):
        detector(7)


def test_photographs_lie_upright(detector: Detector, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (60, 90), (40,) * 3).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    for image in (tmp_path / "turned.jpg", Image.open(tmp_path / "turned.jpg")):
        boxes = detector(image)[0]["boxes"]
        torch.testing.assert_close(boxes, torch.from_numpy(detector.model.dataset.images[0].boxes).float())


class ColorFinder(DetectionModel):
    """Finds the extent of every red value that is not 0: one object each, whole or cut."""

    def __init__(self) -> None:
        super().__init__(trunk=tiny_trunk(), num_classes=2)

    def forward(self, images: Tensor, sizes: Tensor | None = None, **_: object) -> Predictions:
        b, a = len(images), 40
        boxes, scores = torch.zeros(b, a, 4), torch.zeros(b, a, 2)
        for i in range(b):
            for n, value in enumerate([v for v in images[i, 0].unique().tolist() if v]):
                y, x = (images[i, 0] == value).nonzero().unbind(1)
                boxes[i, n] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
                scores[i, n] = torch.tensor([value / 100, 0.0, 0.0]).softmax(0)[:2]
        positions = torch.arange(a).expand(b, a)
        return Predictions(positions, scores, boxes)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_tiles_of_a_large_image_give_its_objects_once(batch_size: int):
    generator = np.random.default_rng(0)
    image = np.zeros((130, 205, 3), np.uint8)
    expected = {}
    for n, (row, column) in enumerate((r, c) for r in range(5) for c in range(7)):
        y, x = 26 * row + generator.integers(0, 5), 29 * column + generator.integers(0, 8)
        h, w = generator.integers(5, 21, 2)
        image[y : y + h, x : x + w] = 50 + n
        expected[50 + n] = [x, y, x + w, y + h]
    detector = Detector(
        model=ColorFinder(),
        categories=[Category(1, "square"), Category(2, "none")],
        settings=SMALL,
        inference=InferenceSettings(shorter_side=64, longer_side=64, score_threshold=0.1, batch_size=batch_size),
    )
    small = image[:40, :64]
    results = detector([image, small, image], tile=64, overlap=0.4, score_threshold=0.38)
    for result in (results[0], results[2]):
        found = sorted(result["boxes"].int().tolist())
        assert found == sorted(expected.values())
        assert (result["scores"].diff() <= 0).all()
    whole = detector(small, score_threshold=0.38)[0]
    assert_equal([results[1]], [whole])


def test_model_folder_round_trip(tmp_path: Path):
    torch.manual_seed(0)
    model = build_model(SMALL, 3, pretrained=False)
    inference = InferenceSettings(shorter_side=64, longer_side=96, score_threshold=0.01, max_detections=7)
    detector = Detector(model=model, categories=CATEGORIES, settings=SMALL, inference=inference)
    assert detector.classes == {7: "cat", 2: "dog", 91: "newt"}
    images = [np.random.default_rng(i).integers(0, 256, (50 + 13 * i, 70, 3), dtype=np.uint8) for i in range(3)]
    detector.save_pretrained(tmp_path / "model")
    again = Detector.from_pretrained(tmp_path / "model", device="cpu")
    assert again.classes == detector.classes
    assert again.inference == inference
    assert again.device == torch.device("cpu")
    assert not again.model.training
    expected = detector(images)
    assert any(len(result["scores"]) for result in expected)
    assert_equal(again(images), expected)
    assert_equal(again(images, batch_size=3), expected)
    for result, image in zip(expected, images, strict=True):
        height, width = image.shape[:2]
        assert len(result["scores"]) <= 7
        assert (result["boxes"] >= 0).all()
        assert (result["boxes"] <= torch.tensor([width, height, width, height])).all()
        assert set(result["labels"].tolist()) <= {7, 2, 91}


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there(detector: Detector, device: str):
    with pytest.raises(UserError, match=f"device '{device}' cannot be used"):
        detector.to(device)


def test_a_folder_that_is_no_model(tmp_path: Path):
    with pytest.raises(UserError, match="not a model folder"):
        Detector.from_pretrained(tmp_path)


def test_batch_norm_is_folded_for_detection_and_not_in_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = live_detector()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    (found,) = detector(image)
    fast = detector.runner.folded()
    assert not [m for m in fast.modules() if "Norm" in type(m).__name__]
    assert [m for m in detector.model.modules() if "Norm" in type(m).__name__]
    assert fast.s_head is detector.model.s_head
    assert detector.runner.folded() is fast

    detector.runner.folded = lambda: detector.model  # type: ignore[method-assign]
    (plain,) = detector(image)
    assert len(found["scores"]) == len(plain["scores"]) > 0
    torch.testing.assert_close(found["boxes"], plain["boxes"], rtol=0, atol=1e-2)
    torch.testing.assert_close(found["scores"], plain["scores"], rtol=0, atol=1e-4)
    detector.save_pretrained(tmp_path / "model")
    assert Detector.from_pretrained(tmp_path / "model", "cpu").model.state_dict().keys() == (
        detector.model.state_dict().keys()
    )


def test_changed_weights_are_used() -> None:
    torch.manual_seed(0)
    detector = live_detector()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    detector(image)
    other = live_detector()
    detector.model.load_state_dict(other.model.state_dict())
    assert_equal(detector(image), other(image))
    with torch.no_grad():
        for module in detector.model.modules():
            if "Norm" in type(module).__name__:
                module.running_var.mul_(4)  # type: ignore[operator, union-attr]
    (changed,), (before,) = detector(image), other(image)
    assert not torch.equal(changed["boxes"], before["boxes"])


@torch.inference_mode()
def test_a_detector_made_and_used_in_inference_mode(tmp_path: Path) -> None:
    live_detector().save_pretrained(tmp_path / "model")
    assert len(Detector.from_pretrained(tmp_path / "model", "cpu")(torch.zeros(3, 64, 64, dtype=torch.uint8))) == 1


def live_detector() -> Detector:
    """Of random weights, with batch norm that does something."""
    model = build_model(SMALL, 2)
    for module in model.modules():
        if "Norm" in type(module).__name__:
            module.running_var.uniform_(0.5, 2)  # type: ignore[operator, union-attr]
            module.running_mean.normal_()  # type: ignore[operator, union-attr]
            module.weight.data.uniform_(0.5, 1)  # type: ignore[operator, union-attr]
    inference = InferenceSettings(shorter_side=64, longer_side=96, score_threshold=0.0)
    return Detector(model=model, categories=CATEGORIES[:2], settings=SMALL, inference=inference)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "model must be DetectionModel or ExportedModel, not None"),
        ({"categories": [1, 2, 3]}, "objects of the class Category"),
        ({"categories": CATEGORIES[:2]}, "3 classes needs as many categories, not 2"),
        ({"settings": {}}, "settings must be TrunkSettings"),
        ({"inference": None}, "inference must be InferenceSettings"),
    ],
)
def test_what_makes_no_detector(dataset: DetectionDataset, change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"model": FakeDetector(dataset), "categories": CATEGORIES}
    given |= {"settings": MimicDetSettings.Model(), "inference": InferenceSettings()}
    with pytest.raises(UserError, match=message):
        Detector(**(given | change))


def test_exchanged_settings_of_a_wrong_type(detector: Detector) -> None:
    detector.inference = {"shorter_side": 5}  # type: ignore[assignment]
    with pytest.raises(UserError, match="must be InferenceSettings, not dict"):
        detector(np.zeros((5, 5, 3), np.uint8))


def test_premultiplied_grey_is_read(detector: Detector) -> None:
    image = Image.fromarray(np.full((20, 30, 2), 255, np.uint8)).convert("La")
    assert (to_pixels(image) == 255).all()
