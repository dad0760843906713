"""What is said of results that are damaged, or of other settings than the study's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mimicdet.errors import UserError
from mimicdet.lab.study.judged import judge
from mimicdet.lab.study.outcome import RESULT, Data, Outcome, check_agreement, is_finished, read_result
from tests.lab.study.test_judged import draw
from tests.lab.study.test_reuse import finish, job

GOOD: dict[str, Any] = {
    "settings": "task: detect", "data": "train 1 -> val 2", "metrics": {"AP": 0.3, "AP50": 0.5, "AP75": 0.2},
    "seconds": 7, "teacher_ap": None, "machine": "this",
}  # fmt: skip


def test_a_good_result_is_read(tmp_path: Path) -> None:
    (tmp_path / RESULT).write_text(json.dumps(GOOD))
    assert read_result(tmp_path / RESULT) == GOOD
    newer = GOOD | {"diagnostics": {"recall_50": 0.7}}
    (tmp_path / RESULT).write_text(json.dumps(newer))
    assert read_result(tmp_path / RESULT) == newer


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([], "it holds no 'key: value' pairs"),
        (None, "it holds no 'key: value' pairs"),
        ({}, "it has no 'settings'"),
        *(({k: v for k, v in GOOD.items() if k != key}, f"it has no '{key}'") for key in GOOD),
        (GOOD | {"settings": 3}, "its 'settings' is 3"),
        (GOOD | {"seconds": None}, "its 'seconds' is empty"),
        (GOOD | {"metrics": {}}, "its 'metrics' have no number 'AP'"),
        (GOOD | {"metrics": {"AP": 0.3, "AP50": None, "AP75": 0.2}}, "its 'metrics' have no number 'AP50'"),
        (GOOD | {"diagnostics": [0.7]}, "its 'diagnostics' are not numbers by name"),
        (GOOD | {"diagnostics": {"recall_50": None}}, "its 'diagnostics' are not numbers by name"),
    ],
)
def test_a_damaged_result_is_no_traceback(tmp_path: Path, content: Any, why: str) -> None:
    (tmp_path / RESULT).write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"result.json is damaged \({why}\); remove it"):
        read_result(tmp_path / RESULT)


def test_settings_that_differ_are_named(tmp_path: Path, data: Data) -> None:
    finish(job(tmp_path / "a", "with"), data)
    same = job(tmp_path / "a", "with")
    assert is_finished(same, data)
    other = job(tmp_path / "a", "with", lr=0.02, teachers=("big",))
    expected = (
        r"with/seed0 holds 'with, seed 0' with other settings than the study has now \(task was .detect. and is "
        r".distill.; distill.teachers was \[\] and is \[.big.\]; optim.lr was 0.01 and is 0.02\); remove the folder"
    )
    with pytest.raises(UserError, match=expected):
        is_finished(other, data)
    fewer = Data(data.folder, "train", "val", data.val_set, data.val_set)
    with pytest.raises(UserError, match="with other data than the study has now; remove the folder"):
        is_finished(same, fewer)


def test_settings_that_are_no_more_are_named(tmp_path: Path, data: Data) -> None:
    finished = finish(job(tmp_path / "a", "with"), data)
    file = finished.folder / RESULT
    file.write_text(file.read_text().replace("head_init: he", "head_finish: 3"))
    with pytest.raises(UserError, match=r"other settings .* \(unknown setting 'model.head_finish' in result.json; "):
        is_finished(finished, data)


def test_results_that_number_the_images_differently_are_not_paired(tmp_path: Path) -> None:
    """As two copies of the package could, of which one is older: the intervals would be those of unpaired images."""
    truth, found = draw(3)
    backwards = {**truth, "images": [i | {"file_name": f"{99 - k}.jpg"} for k, i in enumerate(truth["images"])]}
    one, other = (
        Outcome(job(tmp_path / "a", name), {}, judge(images, found), 1.0, None, "this", "train 1 -> val 2")
        for name, images in (("one", truth), ("other", backwards))
    )
    check_agreement([one, one], "train", "val")
    with pytest.raises(UserError, match=r"a/one/seed0/judged.npz and .*a/other/seed0/judged.npz number the images dif"):
        check_agreement([one, one, other], "train", "val")
