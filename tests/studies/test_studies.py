"""The studies that come along: each can be planned at each of its sizes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mimicdet.lab.study.plan import plan
from mimicdet.lab.study.study_file import read_study, sizes_of
from mimicdet.settings_file import preset_file

STUDIES = Path(__file__).parents[2] / "studies"
FILES = sorted(STUDIES.glob("*.yaml"))
SIZES = [(file, size) for file in FILES for size in sizes_of(file)]
TRAININGS = {
    "distill_gfl_aquarium_cpu": 28,
    "distill_gfl_fast_aquarium_cpu": 25,
    "distill_retinanet_aquarium_cpu": 28,
    "distill_retinanet_fast_aquarium_cpu": 25,
    "distill_weights_aquarium_cpu": 8,
    "epochs_aquarium_cpu": 8,
    "gap_aquarium_cpu": 33,
    "learning_rate_aquarium_cpu": 8,
    "table1_aquarium": 9,
    "table1_aquarium_cpu": 9,
    "table1_coco": 3,
    "table2_aquarium": 18,
    "table2_aquarium_cpu": 16,
    "table2_coco": 4,
    "table3_aquarium": 9,
    "table3_aquarium_cpu": 9,
    "table3_coco": 3,
    "table4_aquarium": 6,
    "table4_aquarium_cpu": 6,
    "table4_coco": 2,
    "table5_aquarium": 6,
    "table5_aquarium_cpu": 6,
    "table5_coco": 4,
    "table6_aquarium": 18,
    "table6_aquarium_cpu": 8,
    "table6_coco": 6,
    "table7_aquarium": 27,
    "table7_aquarium_cpu": 36,
    "table7_coco": 8,
    "variations_aquarium_cpu": 16,
    "wide_aquarium_cpu": 13,
    "width_aquarium_cpu": 39,
}


@pytest.mark.parametrize(("file", "size"), SIZES, ids=[f"{file.stem}-{size}" for file, size in SIZES])
def test_every_study_can_be_planned(file: Path, size: str) -> None:
    study = read_study(file, size)
    jobs = plan(study, file, Path("runs"))
    assert {job.run for job in jobs} == {run.name for run in study.runs}
    assert len(jobs) == TRAININGS[f"{file.stem}_{size}"]


def test_studies_share_their_sizes() -> None:
    """A file for a table, one for a size, and no path to anybody's data."""
    assert {f"{file.stem}_{size}" for file, size in SIZES} == set(TRAININGS)
    assert {file.stem for file in (STUDIES / "sizes").glob("*.yaml")} == {size for _, size in SIZES}
    for file in STUDIES.rglob("*.yaml"):
        assert not re.search(r"^data:|\.\./", file.read_text(encoding="utf-8"), re.MULTILINE), file


def test_what_a_study_says_was_published_is_what_the_preset_says() -> None:
    """Of the rivals at the paper's size, and of MimicDet with the preset's own backbone."""
    for run in read_study(STUDIES / "table7.yaml", "coco").runs:
        if "model.backbone" not in run.set:
            head = preset_file(run.preset or "").read_text(encoding="utf-8")
            expected = re.search(r"Expected: ([\d.]+ AP)", head)
            assert expected is not None
            assert run.published.removesuffix(" (test-dev)") == expected[1]
