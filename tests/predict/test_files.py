"""Prediction for files: which files are meant, what is written, and what one bad image does to the others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mimicdet.config import InferenceSettings, MimicDetSettings
from mimicdet.data.dataset import Category, DetectionDataset, match_classes
from mimicdet.data.decode import read_image
from mimicdet.data.tiles import Tiles
from mimicdet.errors import UserError
from mimicdet.inference.coco_metrics import coco_metrics
from mimicdet.inference.dataset import detect_dataset, evaluate_runner, evaluation_mode
from mimicdet.inference.fold import FoldedModel
from mimicdet.predict import Detector, PredictSummary, find_images, predict_files
from tests.fakes.detector import CATEGORIES, FakeDetector, make_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def dataset(folder: Path) -> DetectionDataset:
    return make_dataset(folder)


@pytest.fixture
def detector(dataset: DetectionDataset) -> Detector:
    inference = InferenceSettings(shorter_side=75, longer_side=133, nms_iou=1.0, batch_size=2)
    return Detector(
        model=FakeDetector(dataset), categories=CATEGORIES, settings=MimicDetSettings.Model(), inference=inference
    )


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_folders_files_and_globs_in_natural_order(tmp_path: Path):
    names = ["b/img10.jpg", "b/img2.JPG", "b/notes.txt", "b/deep/img1.png", "a.xyz", "c/1.tif"]
    touch(*(tmp_path / name for name in names))

    def found(*sources: str, **options: Any) -> list[str]:
        return [str(f.relative_to(tmp_path)) for f in find_images([tmp_path / s for s in sources], **options)]

    assert found("b") == ["b/deep/img1.png", "b/img2.JPG", "b/img10.jpg"]
    assert found("b/*.jpg") == ["b/img10.jpg"]
    assert found("**/*.[jJp]*") == ["b/deep/img1.png", "b/img2.JPG", "b/img10.jpg"]
    assert found("a.xyz", "c", "b/img2.JPG", "b") == [
        "a.xyz",
        "c/1.tif",
        "b/img2.JPG",
        "b/deep/img1.png",
        "b/img10.jpg",
    ]
    assert found("b", leave_out=tmp_path / "b" / "deep") == ["b/img2.JPG", "b/img10.jpg"]
    touch(tmp_path / "odd[1].jpg")
    assert found("odd[1].jpg") == ["odd[1].jpg"], "a file of that name is no glob"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing.jpg", "no such file or folder;"),
        ("EMPTY", r"\(did you mean .*/empty\?\)"),
        ("empty", "no image in this folder"),
        ("*.gif", "behind this pattern"),
    ],
)
def test_sources_without_an_image(tmp_path: Path, source: str, message: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        find_images([tmp_path / source])
    assert str(tmp_path / source) in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [("", "is empty, which is no path; write ."), ("x" * 300, "too long"), ("\ud800", "must be a path")],
)
def test_sources_that_are_no_paths(source: str, message: str):
    with pytest.raises(UserError, match=message):
        find_images([source])


def test_no_source_at_all(detector: Detector):
    with pytest.raises(UserError, match="nothing to predict"):
        predict_files(detector, [])


def test_json_and_pictures(detector: Detector, dataset: DetectionDataset, folder: Path, tmp_path: Path):
    json_file, pictures = tmp_path / "new" / "found.json", tmp_path / "drawn"
    summary = predict_files(detector, [str(folder)], json_file=json_file, pictures=pictures)
    assert (summary.images, summary.detections, summary.failures) == (5, 16, ())
    assert summary.complaint() is None
    rows = json.loads(json_file.read_text())
    assert len(rows) == 16
    for i, record in enumerate(dataset.images):
        own = [row for row in rows if row["image_id"] == i + 1]
        assert [row["file_name"] for row in own] == [str(record.file)] * len(record.labels)
        assert [row["category_id"] for row in own] == [CATEGORIES[k].id for k in record.labels]
        assert [row["category_name"] for row in own] == [CATEGORIES[k].name for k in record.labels]
        boxes = np.array([row["bbox"] for row in own]).reshape(-1, 4)
        np.testing.assert_allclose(boxes[:, :2], record.boxes[:, :2], atol=1e-3)
        np.testing.assert_allclose(boxes[:, 2:], record.boxes[:, 2:] - record.boxes[:, :2], atol=1e-3)
    assert sorted(p.name for p in pictures.iterdir()) == [f"image{i}.jpg" for i in range(5)]
    found = np.asarray(Image.open(pictures / "image0.jpg")).astype(int)
    assert (abs(found - 40) < 3).all(-1).any()
    assert (found.max(-1) - found.min(-1) > 100).any(), "boxes are in colour"
    nothing = np.asarray(Image.open(pictures / "image2.jpg").crop((0, 0, 600, 600))).astype(int)
    assert (nothing.max(-1) - nothing.min(-1) < 10).all(), "the third image has no object"


def test_thresholds(detector: Detector, folder: Path, tmp_path: Path):
    drawn: list[np.ndarray] = []
    for threshold in (0.3, 0.95):
        out = tmp_path / str(threshold)
        summary = predict_files(detector, [folder], pictures=out, score_threshold=0.75, picture_threshold=threshold)
        assert summary.detections == 8
        drawn.append(np.asarray(Image.open(out / "image0.jpg").crop((0, 0, 600, 400))).astype(int))
    assert (np.ptp(drawn[0], axis=-1) > 100).any()
    assert not (np.ptp(drawn[1], axis=-1) > 100).any()


def test_one_bad_image_does_not_stop_the_others(detector: Detector, folder: Path, tmp_path: Path):
    (folder / "image1b.jpg").write_bytes(b"no image")
    broken = folder / "image3.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    json_file, pictures = tmp_path / "found.json", tmp_path / "drawn"
    summary = predict_files(detector, [folder], json_file=json_file, pictures=pictures)
    assert summary.images == 4
    complaint = summary.complaint()
    assert complaint is not None
    assert complaint.startswith("2 of 6 images could not be read: ")
    assert "image1b.jpg" in complaint
    assert "image3.png" in complaint
    assert "\n" not in complaint
    assert {Path(row["file_name"]).stem for row in json.loads(json_file.read_text())} == {"image0", "image1", "image4"}
    assert {row["image_id"] for row in json.loads(json_file.read_text())} == {1, 2, 6}, "numbers of the files found"
    assert len(list(pictures.iterdir())) == 4


def test_many_failures_are_counted_and_the_first_named():
    complaint = PredictSummary(images=3, detections=0, failures=tuple(f"{i}.jpg: broken" for i in range(9))).complaint()
    assert complaint is not None
    assert complaint.startswith("9 of 12 images could not be read: 0.jpg: broken; 1.jpg: broken; ")
    assert complaint.endswith("; 4.jpg: broken; and 4 more")


def test_no_readable_image(detector: Detector, tmp_path: Path):
    (tmp_path / "x.jpg").write_bytes(b"no image")
    summary = predict_files(detector, [tmp_path / "x.jpg"], json_file=tmp_path / "found.json")
    assert (summary.images, len(summary.failures)) == (0, 1)
    assert json.loads((tmp_path / "found.json").read_text()) == []


def test_ids_of_a_data_set(detector: Detector, dataset: DetectionDataset, folder: Path, tmp_path: Path):
    """The data set numbers and orders its classes otherwise than the model, and lacks one."""
    numbered = (Category(1, "newt"), Category(5, "cat"), Category(3, "dog"))
    own = match_classes(
        replace(dataset, categories=(Category(5, "cat"), Category(3, "dog"), Category(1, "newt"))), numbered
    )
    for sources, ids in (([], {0, 11, 33, 44}), ([folder / "image4.png", folder / "image0.png"], {44, 0})):
        json_file, pictures = tmp_path / "found.json", tmp_path / "drawn"
        predict_files(detector, sources, json_file=json_file, dataset=own, pictures=pictures)
        rows = json.loads(json_file.read_text())
        assert {row["image_id"] for row in rows} == ids
        if not sources:
            assert coco_metrics(own.to_coco(), rows)["AP"] == pytest.approx(1)
    strange = tmp_path / "strange.png"
    Image.new("RGB", (9, 9)).save(strange)
    with pytest.raises(UserError, match=r"strange\.png: is not an image of split 'val'"):
        predict_files(detector, [strange], dataset=own)
    with pytest.raises(UserError, match="does not know the class 'cow'"):
        predict_files(detector, [], dataset=replace(own, categories=(*numbered[:2], Category(3, "cow"))))


@pytest.mark.parametrize("tile", [None, 200])
def test_results_of_a_data_set_can_be_evaluated(detector: Detector, dataset: DetectionDataset, tile: int | None):
    tiles = None if tile is None else Tiles(tile)
    results = detect_dataset(detector.runner, dataset, detector.inference, tiles=tiles)
    metrics = coco_metrics(match_classes(dataset, detector.categories).to_coco(), results)
    assert metrics["AP"] == pytest.approx(1)


def test_an_evaluation_does_without_no_image(detector: Detector, dataset: DetectionDataset):
    dataset.images[3].file.unlink()
    with pytest.raises(UserError, match=r"image3\.png"):
        detect_dataset(detector.runner, dataset, detector.inference)


def test_results_equal_those_of_the_evaluation_in_training(detector: Detector, dataset: DetectionDataset):
    with evaluation_mode(detector.model):
        during = evaluate_runner(FoldedModel(detector.model), dataset, detector.inference)
    after = coco_metrics(dataset.to_coco(), detect_dataset(detector.runner, dataset, detector.inference))
    assert after == during


def test_pictures_of_files_with_one_name_stay_apart(detector: Detector, folder: Path, tmp_path: Path):
    for name in ("a/x.png", "b/x.png", "b/X.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.open(folder / "image0.png").save(tmp_path / name)
    predict_files(detector, [tmp_path / "a", tmp_path / "b"], pictures=tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["X-2.jpg", "x-3.jpg", "x.jpg"]


def test_images_are_never_written_over(detector: Detector, folder: Path):
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UserError, match="pictures would lie among the images"):
        predict_files(detector, [folder], pictures=folder)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    inside = folder / "drawn"
    for _ in range(2):  # earlier pictures are no images to predict
        assert predict_files(detector, [folder], pictures=inside).images == 5


def test_a_picture_that_cannot_be_written_costs_nothing_else(detector: Detector, folder: Path, tmp_path: Path):
    predict_files(detector, [folder], json_file=tmp_path / "all.json")
    for name in ("image1.jpg", "image3.jpg"):
        (tmp_path / "drawn" / name).mkdir(parents=True)
    summary = predict_files(detector, [folder], json_file=tmp_path / "found.json", pictures=tmp_path / "drawn")
    assert (tmp_path / "found.json").read_bytes() == (tmp_path / "all.json").read_bytes()
    assert (summary.images, summary.failures) == (5, ())
    complaint = summary.complaint()
    assert complaint is not None
    assert complaint.startswith("2 of 5 pictures could not be written, and all else was: ")
    assert "drawn/image1.jpg cannot be written" in complaint
    assert "drawn/image3.jpg cannot be written" in complaint
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir() if p.is_file()) == [f"image{i}.jpg" for i in (0, 2, 4)]


def test_an_image_too_large_for_a_jpeg_costs_its_picture(detector: Detector, folder: Path, tmp_path: Path):
    Image.new("RGB", (65_600, 4)).save(folder / "image5.png")
    summary = predict_files(detector, [folder], json_file=tmp_path / "found.json", pictures=tmp_path / "drawn")
    assert [text.partition(" (")[0] for text in summary.unwritten] == [
        f"{tmp_path}/drawn/image5.jpg cannot be written as JPEG"
    ]
    assert len(list((tmp_path / "drawn").iterdir())) == 5
    assert len({row["image_id"] for row in json.loads((tmp_path / "found.json").read_text())}) == 5


def test_long_names_are_cut_for_their_pictures(detector: Detector, folder: Path, tmp_path: Path):
    source, stem = folder / "image0.png", "z" * 250
    for name in (f"a/{stem}.png", f"b/{stem}.png", "c/" + "y" * 255):
        (tmp_path / name).parent.mkdir()
        Image.open(source).save(tmp_path / name, format="png")
    sources = [tmp_path / "a", tmp_path / "b", tmp_path / "c" / ("y" * 255)]
    summary = predict_files(detector, sources, pictures=tmp_path / "drawn")
    assert summary.complaint() is None
    names = sorted(p.name for p in (tmp_path / "drawn").iterdir())
    assert names == ["y" * 251 + ".jpg", "z" * 249 + "-2.jpg", "z" * 250 + ".jpg"]


def test_outputs_that_cannot_be_written(detector: Detector, folder: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        predict_files(detector, [folder], pictures=tmp_path / "file")
    with pytest.raises(UserError, match="cannot be"):
        predict_files(detector, [folder], json_file=tmp_path / "file" / "found.json")


def test_a_file_under_several_ids_has_its_detections_once_under_each(
    tmp_path: Path, detector: Detector, dataset: DetectionDataset
):
    first, *others = dataset.images
    one = {name: getattr(first, name)[:1] for name in ("boxes", "labels", "crowd", "areas")}
    again = replace(first, id=7_000, **one)
    twice = replace(dataset, images=(first, *others, again))
    for sources in ([], [first.file]):
        summary = predict_files(
            detector, sources, json_file=tmp_path / "found.json", pictures=tmp_path / "drawn", dataset=twice
        )
        rows = json.loads((tmp_path / "found.json").read_text())
        assert summary.images == (1 if sources else len(dataset))
        own, copy = ([row | {"image_id": 0} for row in rows if row["image_id"] == i] for i in (first.id, 7_000))
        assert own == copy
        assert own
    assert coco_metrics(twice.to_coco(), rows).detections == 2 * len(own)


def test_links_are_images_of_their_own_but_for_a_data_set(
    detector: Detector, dataset: DetectionDataset, folder: Path, tmp_path: Path
):
    (folder / "again.png").symlink_to("image0.png")
    json_file, pictures = tmp_path / "found.json", tmp_path / "drawn"
    assert predict_files(detector, [folder, folder], json_file=json_file, pictures=pictures).images == 6
    rows = json.loads(json_file.read_text())
    boxes = [[row["bbox"] for row in rows if row["file_name"] == str(folder / n)] for n in ("again.png", "image0.png")]
    assert boxes[0] == boxes[1]
    assert boxes[0]
    assert sorted(p.name for p in pictures.iterdir()) == ["again.jpg", *(f"image{i}.jpg" for i in range(5))]
    with_data = predict_files(detector, [folder], json_file=json_file, dataset=dataset)
    assert with_data.images == 5, "the link and its target have one id, with each detection once"
    assert len(json.loads(json_file.read_text())) == len(rows) - len(boxes[0])


@pytest.mark.parametrize("with_data", [False, True])
def test_links_that_lead_nowhere_do_not_cost_the_rest(
    detector: Detector, dataset: DetectionDataset, folder: Path, tmp_path: Path, with_data: bool
):
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    json_file = tmp_path / "found.json"
    summary = predict_files(
        detector,
        [folder],
        json_file=json_file,
        pictures=tmp_path / "drawn",
        dataset=dataset if with_data else None,
    )
    assert summary.images == 5
    assert len(summary.failures) == 2
    assert "loop.png: " in " ".join(summary.failures)
    assert len(json.loads(json_file.read_text())) == 16
    (tmp_path / "loop").symlink_to("loop")
    for place in (tmp_path / "loop", tmp_path / "loop" / "below"):
        with pytest.raises(UserError, match="loop"):
            predict_files(detector, [folder / "image0.png"], pictures=place)
        with pytest.raises(UserError, match="loop"):
            predict_files(detector, [folder / "image0.png"], json_file=place)
        with pytest.raises(UserError, match="no such file"):
            predict_files(detector, [place], json_file=json_file)


def test_a_link_to_an_image_elsewhere_is_not_drawn_over(detector: Detector, folder: Path, tmp_path: Path):
    Image.open(folder / "image0.png").save(folder / "photo.jpg")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "photo.jpg").symlink_to(folder / "photo.jpg")
    before = (folder / "photo.jpg").read_bytes()
    with pytest.raises(UserError, match=r"lie among the images, such as photo\.jpg"):
        predict_files(detector, [tmp_path / "links" / "photo.jpg"], pictures=tmp_path / "links")
    assert (folder / "photo.jpg").read_bytes() == before


def test_own_pictures_are_left_out_wherever_they_lie(detector: Detector, folder: Path, tmp_path: Path):
    first = predict_files(detector, [folder], pictures=folder / "drawn")
    assert (first.images, first.own_pictures) == (5, 0)
    Image.open(folder / "image0.png").save(folder / "drawn" / "mine.png")  # no picture of ours
    again = predict_files(detector, [folder], pictures=folder / "drawn again")
    assert (again.images, again.own_pictures) == (6, 5)
    assert predict_files(detector, [f"{folder}/**/*.*"], json_file=tmp_path / "x.json").own_pictures == 11
    (folder / "drawn" / "mine.png").unlink()
    assert predict_files(detector, [folder / "drawn"], json_file=tmp_path / "x.json").images == 5, "they were meant"
    assert find_images([folder / "drawn" / "image0.jpg"]) == [folder / "drawn" / "image0.jpg"]


def test_names_that_no_font_has_are_listed(dataset: DetectionDataset, folder: Path, tmp_path: Path):
    strange = tuple(Category(c.id, name) for c, name in zip(CATEGORIES, ("cat", "\ue000", "\ue001 new"), strict=True))
    how: dict[str, Any] = {"settings": MimicDetSettings.Model(), "inference": InferenceSettings(shorter_side=75)}
    predict_files(Detector(model=FakeDetector(dataset), categories=strange, **how), [folder], pictures=tmp_path / "out")
    assert (tmp_path / "out" / "classes.txt").read_text() == "#2 \ue000\n#3 \ue001 new\n"


def test_files_are_read_again_where_too_many_pixels_would_be_held(
    detector: Detector, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    predict_files(detector, [folder], pictures=tmp_path / "held")
    monkeypatch.setattr("mimicdet.predict.files._HELD", 7000)
    monkeypatch.setattr("mimicdet.predict.files._PIXELS_AHEAD", 7000)
    predict_files(detector, [folder], pictures=tmp_path / "read")
    for file in (tmp_path / "held").iterdir():
        assert file.read_bytes() == (tmp_path / "read" / file.name).read_bytes()


def test_large_photographs_among_others(
    detector: Detector, dataset: DetectionDataset, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tifffile = pytest.importorskip("tifffile")
    for i in (1, 3):  # in tiles of 200 pixels, each is one tile
        file = folder / f"image{i}.png"
        tifffile.imwrite(file.with_suffix(".tif"), np.asarray(Image.open(file)), compression="deflate", rowsperstrip=9)
        file.unlink()
    damaged = folder / "image3.tif"
    expected = tmp_path / "whole.json"
    predict_files(detector, [folder], tile=200, json_file=expected, pictures=tmp_path / "whole")
    rows = json.loads(expected.read_text())
    with monkeypatch.context() as patch:
        patch.setattr("mimicdet.data.decode.MAX_PIXELS", 6000)
        with pytest.raises(UserError, match="over the limit"):
            read_image(damaged)
    monkeypatch.setattr("mimicdet.data.photograph.MAX_PIXELS", 6000)
    found = tmp_path / "parts.json"
    predict_files(detector, [folder], tile=200, json_file=found, pictures=tmp_path / "parts")
    assert json.loads(found.read_text()) == rows
    assert len(list((tmp_path / "parts").iterdir())) == 5
    damaged.write_bytes(damaged.read_bytes()[:-150])
    summary = predict_files(detector, [folder], tile=200, json_file=found)
    assert summary.images == 4
    assert "image3.tif: the image is truncated" in str(summary.complaint())
    assert json.loads(found.read_text()) == [row for row in rows if not row["file_name"].endswith("image3.tif")]
