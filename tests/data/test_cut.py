"""Tiles on disk: every pixel and every object is where it was."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mimicdet.cli import main
from mimicdet.data.cut import CutDataset, Damage, cut_datasets
from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord
from mimicdet.data.decode import read_image
from mimicdet.data.splits import load_dataset
from mimicdet.errors import UserError


def dataset(folder: Path, *sizes: tuple[int, int], boxes: list[list[float]] | None = None) -> DetectionDataset:
    """Images of random pixels with the given height and width, all with the same boxes."""
    folder.mkdir(parents=True, exist_ok=True)
    objects = np.array(boxes if boxes is not None else [[2, 3, 8, 9]], dtype=np.float64).reshape(-1, 4)
    records = []
    for number, (height, width) in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        records.append(
            ImageRecord(
                id=10 + number,
                file=folder / f"{number}.png",
                height=height,
                width=width,
                boxes=objects,
                labels=np.arange(len(objects)) % 2,
                crowd=np.zeros(len(objects), dtype=bool),
                areas=(objects[:, 2:] - objects[:, :2]).prod(axis=1) / 2,
            )
        )
    categories = (Category(id=3, name="tree"), Category(id=8, name="bush"))
    return DetectionDataset(root=folder, split="train", format="coco", categories=categories, images=tuple(records))


def origin(record: ImageRecord) -> tuple[int, int]:
    x, y = record.file.stem.split("-x")[1].split("-y")
    return int(x), int(y)


def test_pixels_and_objects_stay_where_they_were(tmp_path: Path) -> None:
    boxes = [[10, 12, 20, 30], [55, 2, 66, 10], [96.5, 60, 119, 79.5]]
    given = dataset(tmp_path / "in", (80, 120), boxes=boxes)
    cut = cut_datasets({"train": given}, tmp_path / "out", tile=50, overlap=0.2)
    result = load_dataset(tmp_path / "out", "train")
    assert result.categories == given.categories
    assert cut.tiles == {"train": len(result)} == {"train": 6}
    assert cut.objects == {"train": sum(int((~r.crowd).sum()) for r in result.images)}
    whole = read_image(given.images[0].file)
    seen = np.zeros((80, 120), dtype=bool)
    found: set[tuple[float, ...]] = set()
    for record in result.images:
        x, y = origin(record)
        assert (read_image(record.file) == whole[y : y + 50, x : x + 50]).all()
        seen[y : y + 50, x : x + 50] = True
        for box, label, area in zip(record.boxes, record.labels, record.areas, strict=True):
            moved = tuple(box + np.array([x, y, x, y]))
            if moved in {tuple(b) for b in boxes}:
                found.add((*moved, label))
                assert area == (box[2] - box[0]) * (box[3] - box[1]) / 2
    assert seen.all()
    assert found == {(*box, i % 2) for i, box in enumerate(boxes)}


def test_an_object_counts_where_half_of_it_is_seen_and_is_passed_over_elsewhere(tmp_path: Path) -> None:
    # Tiles x 0..50 and 50..100: half of the first object is in each, 40 % and 60 % of the second, nothing of the third.
    boxes = [[40, 0, 60, 10], [42, 20, 52, 30], [50, 40, 60, 50]]
    boxes[1] = [46, 20, 56, 30]
    given = dataset(tmp_path / "in", (50, 100), boxes=boxes)
    cut_datasets({"train": given}, tmp_path / "out", tile=50, overlap=0)
    left, right = load_dataset(tmp_path / "out", "train").images
    assert left.boxes.tolist() == [[40, 0, 50, 10], [46, 20, 50, 30]]
    assert left.crowd.tolist() == [False, True]
    assert left.areas.tolist() == [50, 20]
    assert right.boxes.tolist() == [[0, 0, 10, 10], [0, 20, 6, 30], [0, 40, 10, 50]]
    assert right.crowd.tolist() == [False, False, False]


def test_objects_that_no_tile_shows_are_counted(tmp_path: Path) -> None:
    # Four tiles of 20 x 20: one object lies whole in one, half of one in each of two, a quarter of one in each of four,
    # and 80 % and 20 % of one in two.
    boxes = [[2, 2, 18, 18], [1, 0, 39, 4], [1, 1, 39, 39], [12, 14, 22, 18]]
    given = dataset(tmp_path / "in", (40, 40), (40, 40), boxes=boxes)
    few = dataset(tmp_path / "few", (20, 20), boxes=[[2, 2, 18, 18]])
    cut = cut_datasets({"train": given, "test": few}, tmp_path / "out", tile=20, overlap=0)
    assert cut.damage == {"train": Damage(before=8, lost=2, in_parts=4)}
    assert cut.objects["train"] == 2 * (1 + 2 + 1)
    assert cut.lines()[1:] == [
        "  train: 8 tiles, 8 objects",
        "    of 8 objects 2 are lost, since no tile shows half of them, and 4 are cut in every tile and shrink to a "
        "part; a larger --tile or --overlap keeps more",
        "  test: 1 tiles, 1 objects",
    ]
    assert cut_datasets({"train": given}, tmp_path / "larger", tile=40).damage == {}


def test_objects_that_the_strip_cuts_are_not_lost(tmp_path: Path) -> None:
    """Each counts in the part where most of it lies; crowd never does."""
    given = dataset(tmp_path / "in", (20, 50), boxes=[[2, 2, 12, 12], [28, 2, 38, 12], [24, 2, 34, 12], [5, 0, 45, 20]])
    record = given.images[0]
    given = replace(given, images=(replace(record, crowd=np.array([False, False, False, True])),))
    assert cut_datasets({"train": given}, tmp_path / "out", tile=30, hold_back=20).damage == {}
    smaller = cut_datasets({"train": given}, tmp_path / "smaller", tile=8, overlap=0.75, hold_back=20).damage
    assert smaller == {"val": Damage(before=1, in_parts=1), "train": Damage(before=2, lost=1, in_parts=1)}


def test_tiles_that_leave_no_object_are_refused(tmp_path: Path) -> None:
    splits = {name: dataset(tmp_path / name, (40, 30), boxes=[[2, 3, 28, 29]]) for name in ("train", "val")}
    with pytest.raises(UserError, match=r"out is not written: tiles of 10 pixels show half of none of the 2 objects"):
        cut_datasets(splits, tmp_path / "out", tile=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "val"]
    splits["val"] = dataset(tmp_path / "val", (40, 30))
    cut = cut_datasets(splits, tmp_path / "out", tile=10)
    assert cut.damage["train"] == Damage(before=1, lost=1)
    nothing = {"train": dataset(tmp_path / "train", (40, 30), boxes=[])}
    assert cut_datasets(nothing, tmp_path / "background", tile=10).damage == {}


@settings(max_examples=25, deadline=None)
@given(
    st.integers(30, 90),
    st.integers(30, 90),
    st.integers(10, 40),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.integers(1, 25),
)
def test_the_strip_held_back_shares_no_pixel_with_the_rest(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, tile: int, overlap: float, strip: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    given = dataset(folder / "in", (height, width), (width, height), boxes=[[0, 0, 30, 30], [0, 0, 5, 5]])
    cut = cut_datasets({"train": given}, folder / "out", tile=tile, overlap=overlap, hold_back=strip)
    covered = {}
    for split in ("train", "val"):
        result = load_dataset(folder / "out", split)
        assert len(result) == cut.tiles[split]
        for record in result.images:
            number = int(record.file.name.partition("-")[0])
            seen = covered.setdefault((split, number), np.zeros((*[(height, width), (width, height)][number],), int))
            x, y = origin(record)
            seen[y : y + record.height, x : x + record.width] = 1
            assert (record.height, record.width) <= (tile, tile)
    for number in (0, 1):
        assert (covered["train", number] + covered["val", number] == 1).all()
        rows, columns = np.nonzero(covered["val", number])
        shape = covered["val", number].shape
        longer = rows if shape[0] >= shape[1] else columns
        assert longer.min() == max(shape) - strip


def test_every_split_is_cut_and_small_images_stay_whole(tmp_path: Path) -> None:
    splits = {"train": dataset(tmp_path / "a", (40, 40), (10, 12)), "test": dataset(tmp_path / "b", (30, 30), boxes=[])}
    cut = cut_datasets(splits, tmp_path / "out", tile=30)
    assert cut == CutDataset(out=tmp_path / "out", tiles={"train": 5, "test": 1}, objects={"train": 2, "test": 0})
    assert cut.lines()[1:] == ["  train: 5 tiles, 2 objects", "  test: 1 tiles, 0 objects"]
    small = load_dataset(tmp_path / "out", "train").images[-1]
    assert (small.height, small.width) == (10, 12)
    assert small.boxes.tolist() == [[2, 3, 8, 9]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tile": 0}, "1 pixel at least, not 0"),
        ({"overlap": 1.0}, "not 1.0"),
        ({"overlap": -0.1}, "not -0.1"),
        ({"hold_back": -1}, "not -1"),
        ({"hold_back": 40}, "0.png: has 30 x 40 pixels, of which 40 cannot be held back"),
    ],
)
def test_values_out_of_range(change: dict[str, float], sentence: str, tmp_path: Path) -> None:
    options = {"tile": 20, "overlap": 0.25, "hold_back": 0} | change
    with pytest.raises(UserError, match=sentence):
        cut_datasets({"train": dataset(tmp_path / "in", (40, 30))}, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_strip_needs_a_train_split_and_no_val(tmp_path: Path) -> None:
    given = dataset(tmp_path / "in", (40, 30))
    for splits in ({"train": given, "val": given}, {"test": given}):
        with pytest.raises(UserError, match="held back as val only where"):
            cut_datasets(splits, tmp_path / "out", tile=20, hold_back=5)


def test_all_or_nothing(tmp_path: Path) -> None:
    given = dataset(tmp_path / "in", (40, 30), (20, 20))
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        cut_datasets({"train": given}, out, tile=20)
    os.remove(given.images[1].file)
    with pytest.raises(UserError, match=r"1\.png"):
        cut_datasets({"train": given}, tmp_path / "new", tile=20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_long_names_are_cut_for_their_tiles(tmp_path: Path) -> None:
    given = dataset(tmp_path / "in", (40, 30))
    record = given.images[0]
    long = record.file.rename(record.file.with_name("z" * 251 + ".png"))
    given = replace(given, images=(replace(record, file=long),))
    assert cut_datasets({"train": given}, tmp_path / "out", tile=20).tiles == {"train": 6}
    assert len(load_dataset(tmp_path / "out", "train")) == 6
    assert {len(path.name) for path in (tmp_path / "out" / "train").iterdir()} == {255}


@pytest.mark.parametrize("words", [["--tile", "31"], ["--tile", "40", "--overlap", "0.95"]])
def test_the_command_cuts_no_tiles_that_prediction_refuses(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cut", "nosuch", str(tmp_path / "out"), *words]) == 2
    assert " must be a s" in capsys.readouterr().err
