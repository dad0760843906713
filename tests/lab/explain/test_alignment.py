"""Where the S-head looks: the points it really reads, the position that speaks for an object, and the command."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.ops import box_iou

from mimicdet import Detector
from mimicdet.build import build_model
from mimicdet.cli import main
from mimicdet.config import SETTINGS_OF, InferenceSettings
from mimicdet.data.batch import pad_to_batch
from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.transform import resize_for_inference
from mimicdet.lab.explain.alignment import FOUND_IOU, Sight, look_at_objects, points_read, summarise
from mimicdet.lab.explain.report import _short, _summary, choose_objects
from mimicdet.models.mimicdet import MimicDet
from tests.fakes.detector import CATEGORIES, make_dataset
from tests.fakes.tiny import enliven, tiny_batch, tiny_detector

LEARNED = {"offsets": "box_grid+learned", "kernel_size": 5, "finest_kernel_size": 3}


@pytest.mark.parametrize(
    "head", [{}, {"offsets": "box_grid"}, LEARNED, {"alignment": "deformable"}, {"alignment": "conv"}]
)
@torch.no_grad()
def test_the_points_are_those_that_the_head_reads(head: dict[str, Any]) -> None:
    """Read there with grid_sample, the features give what the head gives."""
    model, batch = tiny_detector(**head), tiny_batch()
    refined = model.refine(batch.images, batch.sizes)
    places, a = refined.places, refined.objectness.shape[1]
    rows = torch.tensor([0, 17, 100, a - 1, a + 3, 2 * a + 190, 2 * a + 191])
    points = points_read(model.s_head, refined, rows)
    expected = model.s_head.at(refined.pyramid.levels, refined.deltas, places, rows)
    for row, place, wanted in zip(rows.tolist(), points, expected.class_feature, strict=True):
        level = int(places.level[row % a])
        feature = refined.pyramid.levels[level][row // a][None]
        size = torch.tensor([feature.shape[3], feature.shape[2]]) * places.stride[row % a]
        read = F.grid_sample(feature, (place / size * 2 - 1)[None, None], align_corners=False)  # (1, C, 1, T)
        align = model.s_head.align_finest if level == 0 else model.s_head.align
        found = model.s_head._predict(align.at(read[0, :, 0].T[None])).class_feature
        torch.testing.assert_close(found[0], wanted)


def make_detector(seed: int = 0, **settings: Any) -> Detector:
    own = {"head_channels": 16, "head_features": 32, "offsets": "box_grid"} if "family" not in settings else {}
    model_settings = SETTINGS_OF[settings.get("family", "mimicdet")].Model(
        backbone="resnet10t", weights="random", pyramid_channels=16, **(own | settings)
    )
    torch.manual_seed(seed)
    model = build_model(model_settings, num_classes=3)
    if isinstance(model, MimicDet):
        enliven(model.refinement)
        with torch.no_grad():  # so that adjusted boxes stay near their anchors
            model.refinement.deltas.weight.mul_(0.02)
            model.refinement.deltas.bias.mul_(0.02)
    inference = InferenceSettings(shorter_side=128, longer_side=256, positions=400)
    return Detector(model=model, categories=CATEGORIES, settings=model_settings, inference=inference)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    dataset = make_dataset(tmp_path_factory.mktemp("data"))
    dataset.images[0].crowd[1] = True
    rng = np.random.default_rng(0)
    for record in dataset.images:
        pixels = rng.integers(0, 255, (record.height, record.width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(record.file)
    (dataset.root / "val.json").write_text(json.dumps(dataset.to_coco()))
    (dataset.root / "val").mkdir(exist_ok=True)
    for record in dataset.images:
        (dataset.root / "val" / record.file.name).write_bytes(record.file.read_bytes())
    return dataset


def test_the_best_adjusted_box_speaks_for_an_object(dataset: DetectionDataset) -> None:
    """One position and one object at a time, in pixels of the image as the model sees it."""
    detector = make_detector()
    model: Any = detector.model
    found = 0
    for record, sights in look_at_objects(detector, dataset):
        with Image.open(record.file) as picture:
            image = resize_for_inference(np.asarray(picture), 128, 256)
        with torch.inference_mode():
            batch = pad_to_batch([image], 32)
            refined = model.refine(batch.images, batch.sizes)
        order = refined.objectness[0].masked_fill(~refined.valid[0], -torch.inf).argsort(descending=True)[:400]
        ratio = np.array([image.shape[2] / record.width, image.shape[1] / record.height])
        objects = [box for box, crowd in zip(record.boxes, record.crowd, strict=True) if not crowd]
        assert len(sights) == len(objects)
        for box, sight in zip(objects, sights, strict=True):
            wanted = torch.tensor(box * np.tile(ratio, 2), dtype=torch.float32)[None]
            overlaps = {int(p): float(box_iou(refined.adjusted_boxes[0, p][None], wanted)) for p in order}
            best = max(overlaps, key=lambda p: overlaps[p])
            assert (sight is not None) == (overlaps[best] >= FOUND_IOU)
            if sight is None:
                continue
            found += 1
            adjusted = refined.adjusted_boxes[0, best].numpy() / np.tile(ratio, 2)
            np.testing.assert_allclose(sight.adjusted_box, adjusted, rtol=1e-5)
            assert sight.level == 3 + int(refined.places.level[best])
            np.testing.assert_array_equal(sight.box, box)
            # The taps of box_grid are the centres of a k x k division of the adjusted box
            k = 3 if sight.level == 3 else 5
            assert sight.points.shape == (k * k, 2)
            x1, y1, x2, y2 = adjusted
            np.testing.assert_allclose(sight.points[0], [x1 + (x2 - x1) / 2 / k, y1 + (y2 - y1) / 2 / k], rtol=1e-4)
            assert sight.inside == 1
            assert sight.overlap == pytest.approx(((k - 1) / k) ** 2, rel=1e-4)
    assert found > 3


def test_a_plain_convolution_looks_beside_the_box(dataset: DetectionDataset) -> None:
    plain = make_detector(alignment="conv", offsets="learned")
    sights = [s for _, image in look_at_objects(plain, dataset) for s in image]
    summary = summarise(sights)
    assert summary.objects == 15
    assert 0 < summary.found < 15
    grid = summarise([s for _, image in look_at_objects(make_detector(), dataset) for s in image])
    assert (grid.objects, grid.found) == (summary.objects, summary.found)  # the adjusted boxes are the same
    assert summary.inside < 0.8 < grid.inside
    sight = next(s for s in sights if s is not None)
    stride, k = 2**sight.level, 3 if sight.level == 3 else 5
    # Neighbouring taps of a plain convolution are a cell apart, in pixels of the resized image
    steps = np.diff(sight.points.reshape(k, k, 2)[0, :, 0])
    np.testing.assert_allclose(steps, steps[0])
    assert any(np.isclose(steps[0] * ratio, stride) for ratio in _ratios(dataset))
    assert np.isnan(summarise([None, None]).inside)


def _ratios(dataset: DetectionDataset) -> list[float]:
    """By how much the images are enlarged, across."""
    return [
        resize_for_inference(np.zeros((r.height, r.width, 3), np.uint8), 128, 256).shape[2] / r.width
        for r in dataset.images
    ]


def test_drawn_objects_are_of_all_sizes_and_found_by_all(dataset: DetectionDataset) -> None:
    sights = max((image for _, image in look_at_objects(make_detector(), dataset)), key=len)
    sight = next(s for _, image in look_at_objects(make_detector(), dataset) for s in image if s is not None)
    assert choose_objects([sights, [None] * len(sights)], 4) == []
    grown = [type(sight)(3, sight.box * factor, sight.adjusted_box, sight.points) for factor in (3, 1, 5, 2, 4)]
    assert choose_objects([grown], 3) == [1, 0, 2]
    assert choose_objects([[*grown, None]], 9) == [1, 3, 0, 4, 2]


def test_the_command(dataset: DetectionDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, options in (("with", {}), ("without", {"alignment": "conv", "offsets": "learned"})):
        make_detector(**options).save_pretrained(tmp_path / name / "model")
    words = ["explain", "alignment", str(tmp_path / "with/model"), "--against", str(tmp_path / "without/model")]
    words += ["--data", str(dataset.root), "--pictures", "2", "--objects", "3"]
    assert main([*words, "--out", str(tmp_path / "seen")]) == 0
    printed = capsys.readouterr().out
    assert {"with", "without"} <= set(printed.split())
    assert "100.0%" in printed
    files = sorted(file.name for file in (tmp_path / "seen").iterdir())
    assert files[-2:] == ["alignment.csv", "alignment.md"]
    assert len(files) == 4
    for file in files[:2]:
        with Image.open(tmp_path / "seen" / file) as picture:
            assert picture.width > 700  # two columns
        assert f"![{file}]({file})" in (tmp_path / "seen/alignment.md").read_text()
    with (tmp_path / "seen/alignment.csv").open() as text:
        rows = list(csv.DictReader(text))
    own = [row for row in rows if row["model"] == str(tmp_path / "with/model")]
    assert len(own) > 3
    assert {row["points_inside"] for row in own} == {"1.0000"}
    # Chosen images: the last one alone
    last = [record.file for record in dataset.images if len(record.boxes)][-1]
    chosen = words[: words.index("--pictures")]
    for name in (last.name, last.stem):
        assert main([*chosen, "--out", str(tmp_path / name), "--images", name]) == 0
        assert [file.name for file in (tmp_path / name).glob("*.png")] == [f"01-{last.stem}.png"]
    capsys.readouterr()
    assert main([*chosen, "--out", str(tmp_path / "none"), "--images", "nothing.jpg"]) == 2
    assert "val has no image 'nothing.jpg'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert main([*words, "--out", str(tmp_path / "none"), "--images", last.name]) == 2
    assert "give one of both" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "seen"), "--pictures", "-1"]) == 2
    (tmp_path / "file").write_text("")
    assert main([*words, "--out", str(tmp_path / "file")]) == 2
    # A picture that cannot be written costs nothing but itself
    shutil.move(tmp_path / "seen", tmp_path / "before")
    (tmp_path / "seen" / files[0]).mkdir(parents=True)
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "seen")]) == 2
    assert f"{files[0]} cannot be written" in (told := capsys.readouterr().err)
    assert told.endswith("seen has the tables and the other pictures\n")
    for file in ("alignment.csv", files[1]):
        assert (tmp_path / "seen" / file).read_bytes() == (tmp_path / "before" / file).read_bytes()
    assert files[0] not in (tmp_path / "seen/alignment.md").read_text()


def test_models_are_compared_on_what_all_found(dataset: DetectionDataset) -> None:
    """Averages over the same objects; how many each found stays its own."""
    one = next(s for _, image in look_at_objects(make_detector(), dataset) for s in image if s is not None)
    beside = Sight(one.level, one.box, one.adjusted_box, one.points + 1000)
    header, rows = _summary({"a": [[one, beside], [None]], "b": [[one, None], [one]]})
    inside = header.index("points inside")
    level = (f"  P{one.level}", "", "1", "100.0%")
    expected = [("a", "3", "2", "100.0%"), level, ("b", "3", "2", "100.0%"), level]
    assert [(row[0], row[1], row[2], row[inside]) for row in rows] == expected
    alone = _summary({"a": [[one, beside], [None]]})[1][0]
    assert (alone[2], alone[inside]) == ("2", "50.0%")


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["runs/cells/model"], ["cells"]),
        (["cells.onnx"], ["cells.onnx"]),
        (["model"], None),  # the folder it stands in
        (["."], None),
        (["runs/with/seed0/model", "runs/without/seed0/model"], ["with", "without"]),
        (["runs/a/seed0/model", "runs/a/seed1/model"], ["seed0", "seed1"]),
        (["a/b/model", "c/model"], ["a/b", "c"]),
        (["/x", "/x/model"], ["x", "x/model"]),
        (["a/model", "a/model-last"], ["model", "model-last"]),
    ],
)
def test_models_are_called_by_what_differs(
    names: list[str], short: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _short(names) == (short or [tmp_path.name])


def test_only_mimicdet_has_an_alignment_layer(
    dataset: DetectionDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_detector(family="fcos", head_groups=4).save_pretrained(tmp_path / "model")
    data = dataset.root
    assert main(["explain", "alignment", str(tmp_path / "model"), "--data", str(data), "--out", str(tmp_path)]) == 2
    assert "model is of family 'fcos', which has no alignment layer" in capsys.readouterr().err
    other = ["--against", str(tmp_path / "model")]  # told before the first is looked into
    make_detector().save_pretrained(tmp_path / "ours")
    words = ["explain", "alignment", str(tmp_path / "ours"), *other, "--data", str(data), "--out", str(tmp_path / "o")]
    assert main(words) == 2
    assert not (tmp_path / "o").exists()
