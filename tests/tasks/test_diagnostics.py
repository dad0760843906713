from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mimicdet.data.batch import Batch, collate
from mimicdet.models.alignment import box_grid_offsets
from mimicdet.models.mimicdet import MimicDet
from mimicdet.tasks.diagnostics import mimic_diagnostics, student_diagnostics
from mimicdet.tasks.student import prepare, student_sums
from tests.fakes.tiny import sample, samples, tiny_batch, tiny_detector, tiny_settings, tiny_task

ASSIGN = tiny_settings().assign


def diagnose(detector: MimicDet, batch: Batch) -> dict[str, float]:
    prepared = prepare(detector, batch, ASSIGN)
    sums = student_sums(detector, batch, prepared, ASSIGN)
    found = student_diagnostics(detector, batch, prepared, sums)
    assert all(value.shape == () and not value.requires_grad for value in found.values())
    return {name: float(value) for name, value in found.items()}


def literal_iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_recall_and_counts_are_those_of_a_count_by_hand() -> None:
    detector = tiny_detector(seed=2)
    batch = collate([sample(seed=1, objects=8, crowd=2), *samples(seed=5), sample((40, 64), seed=9, objects=0)])
    found = diagnose(detector, batch)
    prepared = prepare(detector, batch, ASSIGN)
    best = []
    for i in range(5):
        rows = prepared.proposals.boxes[i][prepared.proposals.valid[i]].tolist()
        for m, label in enumerate(batch.labels[i].tolist()):
            if label >= 0 and not batch.crowd[i, m]:
                best.append(max(literal_iou(row, batch.boxes[i, m].tolist()) for row in rows))
    assert len(best) == 6 + 18
    assert found["diag/recall_50"] == pytest.approx(sum(o >= 0.5 for o in best) / len(best))
    assert found["diag/recall_60"] == pytest.approx(sum(o >= 0.6 for o in best) / len(best))
    assert 0 < found["diag/recall_60"] < 1
    assert found["diag/proposals"] == pytest.approx(int(prepared.proposals.valid.sum()) / 5)
    assert found["diag/proposal_positives"] == pytest.approx(int((prepared.targets.match >= 0).sum()) / 5)
    levels = prepared.refined.places.level
    for number in range(3, 8):
        positive = (prepared.anchor_match >= 0) & (levels == number - 3)
        assert found[f"diag/anchor_positives_p{number}"] == pytest.approx(int(positive.sum()) / 5)


@pytest.mark.parametrize("offsets", ["learned", "box_grid", "box_grid+learned"])
def test_taps_of_the_chosen_positives(offsets: Any) -> None:
    detector, batch = tiny_detector(seed=1, offsets=offsets, kernel_size=5, finest_kernel_size=3), tiny_batch()
    found = diagnose(detector, batch)
    prepared = prepare(detector, batch, ASSIGN)
    sums = student_sums(detector, batch, prepared, ASSIGN)
    shares: list[float] = []
    lengths, learned = ({number: list[float]() for number in range(3, 8)} for _ in range(2))
    for i, r in sums.chosen.tolist():
        if prepared.targets.match[i, r] >= 0:
            position = int(prepared.proposals.positions[i, r])
            finest = int(prepared.refined.places.level[position]) == 0
            deltas = prepared.refined.deltas[i, position : position + 1].detach()
            length, inside = detector.s_head.tap_statistics(deltas, finest=finest)
            shares.append(float(inside.detach()))
            number = 3 + int(prepared.refined.places.level[position])
            lengths[number].append(float(length.detach()))
            if offsets != "box_grid":
                whole = detector.s_head.guided_offsets(deltas, finest=finest, kernel_size=3 if finest else 5)
                fixed = box_grid_offsets(deltas, 3 if finest else 5) if offsets != "learned" else 0
                taps = (whole - fixed).detach().reshape(-1, 2).tolist()
                learned[number].append(sum(math.hypot(y, x) for y, x in taps) / len(taps))
    assert len(shares) > 5
    for name, by_level in (("learned_offset", learned), ("offset_length", lengths)):
        for number, values in by_level.items():
            if values:
                mean = sum(values) / len(values)
                assert found[f"diag/{name}_p{number}"] == pytest.approx(mean, rel=1e-3, abs=1e-6)
            elif (name, offsets) != ("learned_offset", "box_grid"):
                assert math.isnan(found[f"diag/{name}_p{number}"])
    assert ("diag/learned_offset_p3" in found) == (offsets != "box_grid")
    assert offsets == "box_grid" or sum(map(bool, learned.values())) > 1
    assert found["diag/taps_in_box"] == pytest.approx(sum(shares) / len(shares))
    assert found["diag/offset_length"] == pytest.approx(sum(map(sum, lengths.values())) / len(shares))
    if offsets == "box_grid":
        assert found["diag/taps_in_box"] == 1


@pytest.mark.parametrize("alignment", ["deformable", "conv"])
def test_only_a_guided_layer_has_taps_to_speak_of(alignment: Any) -> None:
    found = diagnose(tiny_detector(alignment=alignment), tiny_batch())
    assert "diag/taps_in_box" not in found
    assert "diag/offset_length" not in found
    assert "diag/offset_length_p3" not in found
    assert "diag/learned_offset_p3" not in found


def test_rates_over_nothing_are_not_numbers_and_counts_are_zero() -> None:
    found = diagnose(tiny_detector(), tiny_batch(objects=0))
    for name in ("diag/recall_50", "diag/recall_60", "diag/taps_in_box", "diag/offset_length"):
        assert math.isnan(found[name])
    assert found["diag/proposal_positives"] == 0
    assert found["diag/proposals"] > 10


def test_cosines() -> None:
    cosines = {"class": torch.tensor([1.0, 0.5, -1.0]), "box": torch.tensor([0.0, 0.8, 0.7])}
    level = torch.tensor([2, 0, 2])
    found = mimic_diagnostics(cosines, torch.tensor([True, True, False]), level, [3, 4, 5])
    expected = {
        "diag/cosine_class": 0.5 / 3,
        "diag/cosine_class_positives": 0.75,
        "diag/cosine_class_p3": 0.5,
        "diag/cosine_class_p4": math.nan,
        "diag/cosine_class_p5": 0,
        "diag/cosine_box": 0.5,
        "diag/cosine_box_positives": 0.4,
        "diag/cosine_box_p3": 0.8,
        "diag/cosine_box_p4": math.nan,
        "diag/cosine_box_p5": 0.35,
    }
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, nan_ok=True)
    none = mimic_diagnostics(cosines, torch.zeros(3, dtype=torch.bool), level, [3, 4, 5])
    assert math.isnan(none["diag/cosine_class_positives"])
    assert float(none["diag/cosine_box"]) == pytest.approx(0.5)


def test_two_mimicked_vectors_are_one_cosine() -> None:
    """``both`` sums two distances, so that the loss of two opposite pairs is 4; their cosine is -1 still."""
    found = {}
    for kind in ("logits", "feature", "both"):
        output = tiny_task(tiny_settings(mimic={"classification": kind}))(tiny_batch())
        found[kind] = float(output["diag/cosine_class"]), float(output["mimic_classification"])
    assert found["both"][0] == pytest.approx((found["logits"][0] + found["feature"][0]) / 2, abs=1e-5)
    assert found["both"][1] == pytest.approx(2 - 2 * found["both"][0], abs=1e-5)


def test_they_come_with_every_step_of_both_tasks() -> None:
    batch = tiny_batch()
    student = {f"diag/{name}" for name in ("recall_50", "recall_60", "proposals", "proposal_positives")}
    for task, extra in (("detect", set()), ("mimic", {"diag/cosine_class", "diag/cosine_box_positives"})):
        output = tiny_task(tiny_settings(task=task))(batch)
        assert student | extra <= output.keys()
        assert all(not value.requires_grad for name, value in output.items() if name.startswith("diag/"))
