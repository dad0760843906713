"""What annotations name lies inside the data set, or it is not even opened; links and files named by hand are fine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mimicdet.data.check import check_dataset
from mimicdet.data.splits import load_dataset
from tests.fakes.small_sets import coco_document, error_of, voc_xml, write_coco, write_image, write_voc, write_yolo

Set = tuple[Path, Path]


@pytest.fixture
def place(tmp_path: Path) -> Set:
    """The folder of a data set, and an image outside it."""
    (tmp_path / "set").mkdir()
    return tmp_path / "set", write_image(tmp_path / "private" / "a.png")


def coco_naming(root: Path, name: str) -> None:
    write_coco(root, document=coco_document(file_name=name))


def voc_naming(root: Path, name: str) -> None:
    write_voc(root, voc_xml(filename=name))
    (root / "train" / "a.png").unlink()


def yolo_listing(root: Path, name: str) -> None:
    write_yolo(root)
    (root / "data.yaml").write_text("train: list.txt\nnames: [cat, dog]\n")
    (root / "list.txt").write_text(f"images/train/a.png\n{name}\n")


@pytest.mark.parametrize("write", [coco_naming, voc_naming, yolo_listing])
@pytest.mark.parametrize("how", ["absolute", "up", "down and up", "link and up", "backslashes"])
def test_a_file_outside_is_refused_unread(place: Set, write: Callable[[Path, str], None], how: str) -> None:
    root, private = place
    up = "../" if write is yolo_listing else "../../"
    (root / "down").mkdir()
    (root / "link").symlink_to(private.parent, target_is_directory=True)
    spellings = {"absolute": str(private), "up": f"{up}private/a.png", "down and up": f"down/../{up}private/a.png"}
    spellings |= {"link and up": "link/../private/a.png", "backslashes": f"{up}private/a.png".replace("/", "\\")}
    write(root, spellings[how])
    message = error_of(load_dataset, root)
    if how == "link and up" or (how == "backslashes" and write is yolo_listing):
        assert any(words in message for words in ("there is no image", "its image", "there is no such file"))
        return
    assert f"/private/a.png lies outside the data set {root}; " in message
    assert "--outside" in message
    private.unlink()
    os.mkfifo(private)  # to read it would wait for ever
    assert not check_dataset(root).ok
    private.unlink()
    write_image(private)
    assert load_dataset(root, outside=True).images[-1].file.samefile(private)


def test_names_that_come_back_and_absolute_ones_inside_are_fine(place: Set) -> None:
    root, _ = place
    for name in (str(root / "train" / "a.png"), "../train/a.png", "x/../a.png", "..\\train\\a.png"):
        coco_naming(root, name)
        assert load_dataset(root).images[0].file.samefile(root / "train" / "a.png")
        assert load_dataset(root / "train.json").images[0].file.samefile(root / "train" / "a.png")


def test_links_in_the_folder_lead_to_images_elsewhere(place: Set) -> None:
    root, private = place
    (root / "train").symlink_to(private.parent, target_is_directory=True)
    (root / "train.json").write_text(json.dumps(coco_document()))
    assert load_dataset(root).images[0].file == root / "train" / "a.png"
    (root / "train").unlink()
    (root / "train").mkdir()
    (root / "train" / "a.png").symlink_to(private)
    assert load_dataset(root).images[0].file == root / "train" / "a.png"


def test_a_link_to_the_whole_data_set(tmp_path: Path) -> None:
    coco_naming(tmp_path / "real", str(tmp_path / "real" / "train" / "a.png"))
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    assert len(load_dataset(tmp_path / "link")) == 1


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco_naming(tmp_path / "set", "../../a.png")
    write_image(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path / "set")
    for path in (".", "train.json", "../set"):
        assert "lies outside the data set" in error_of(load_dataset, path)


def test_images_beside_a_file_that_is_named_by_hand(tmp_path: Path) -> None:
    write_image(tmp_path / "val2017" / "a.png")
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.parent.mkdir()
    for name in ("a.png", "../val2017/a.png"):
        file.write_text(json.dumps(coco_document(file_name=name)))
        for path in (file, file.parent, tmp_path):
            assert load_dataset(path, "val").images[0].file.samefile(tmp_path / "val2017" / "a.png")


@pytest.mark.parametrize("yaml", ["path: ../other\ntrain: images/train", "train: ../other/images/train"])
def test_a_yaml_may_name_other_folders_where_it_is_named_itself(place: Set, yaml: str) -> None:
    root, _ = place
    write_yolo(root.parent / "other")
    file = root / "data.yaml"
    file.write_text(f"{yaml}\nnames: [cat, dog]\n")
    assert len(load_dataset(file)) == 1
    message = error_of(load_dataset, root)
    assert message.startswith(f"{file}: split train: ")
    assert f"or name the file {file}" in message
    assert len(load_dataset(root, outside=True)) == 1


def test_roboflows_folder_is_not_that_of_the_data_set_beside(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "set"):
        write_image(root / "train" / "images" / "a.png")
        (root / "train" / "labels").mkdir()
        (root / "train" / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "set" / "data.yaml").write_text("train: ../train/images\nnames: [cat]\n")
    assert load_dataset(tmp_path / "set").images[0].file == tmp_path / "set" / "train" / "images" / "a.png"


def test_a_list_of_voc_files_stays_inside_too(place: Set) -> None:
    root, private = place
    private.with_suffix(".xml").write_text(voc_xml())
    (root / "Annotations").mkdir()
    (root / "Annotations" / "a.xml").write_text(voc_xml())
    write_image(root / "JPEGImages" / "a.png")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("../../private/a\n")
    assert error_of(load_dataset, root).startswith(f"{lists / 'train.txt'}: ")
    assert "line 1: there is no " in error_of(load_dataset, root)  # a list names files of the folder, not paths
