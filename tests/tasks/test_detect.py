from __future__ import annotations

from typing import Any

import pytest
import torch

from mimicdet.config import LossSettings
from mimicdet.data.batch import collate
from mimicdet.tasks.detect import DetectTask
from mimicdet.tasks.student import prepare, student_sums, total
from tests.fakes.tiny import gradients, sample, samples, tiny_batch, tiny_settings, tiny_task
from tests.tasks.literal import literal_loss

PARTS = ("refinement_objectness", "refinement_boxes", "s_classification", "s_boxes")


def make(**sections: Any) -> DetectTask:
    task = tiny_task(tiny_settings(task="detect", **sections))
    assert isinstance(task, DetectTask)
    return task


@pytest.mark.parametrize("normalizer", ["samples", "positives"])
def test_loss_and_gradient_are_those_of_the_literal_version(normalizer: str) -> None:
    task, batch = make(assign={"s_box_normalizer": normalizer}), tiny_batch()
    output, expected = task(batch), literal_loss(task, batch)
    assert set(PARTS) == set(expected) - {"loss"}
    for name, value in expected.items():
        torch.testing.assert_close(output[name], value, rtol=1e-6, atol=1e-6)
    output["loss"].backward()
    found = gradients(task)
    for name, wanted in zip(found, torch.autograd.grad(expected["loss"], list(task.parameters())), strict=True):
        assert found[name] is not None
        torch.testing.assert_close(found[name], wanted, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_only_the_loss_carries_a_gradient_and_all_are_numbers() -> None:
    output = make()(tiny_batch())
    assert {name for name in output if not name.startswith("diag/")} == {"loss", *PARTS}
    assert all(value.shape == () for value in output.values())
    assert [name for name, value in output.items() if value.requires_grad] == ["loss"]


@pytest.mark.parametrize("name", PARTS)
def test_each_weight_is_used(name: str) -> None:
    batch = tiny_batch()
    plain, weighted = make()(batch), make(loss={name: 3.5})(batch)
    for part in PARTS:
        assert torch.equal(plain[part], weighted[part])
    torch.testing.assert_close(weighted["loss"], plain["loss"] + 2.5 * plain[name])
    without = make(loss={part: 0.0 for part in PARTS if part != name})(batch)
    torch.testing.assert_close(without["loss"], plain[name])


def test_parts_are_divided_by_their_counts() -> None:
    task, batch = make(), tiny_batch()
    sums = student_sums(task.detector, batch, prepare(task.detector, batch, task.assign), task.assign)
    parts = sums.parts(torch.tensor([2.0, 5.0, 7.0]))
    assert list(parts) == list(PARTS)
    torch.testing.assert_close(parts["refinement_objectness"], sums.objectness / 2)
    torch.testing.assert_close(parts["refinement_boxes"], sums.refinement_boxes / 2)
    torch.testing.assert_close(parts["s_classification"], sums.classification / 5)
    torch.testing.assert_close(parts["s_boxes"], sums.boxes / 7)


def test_the_total_of_parts() -> None:
    parts = {"s_boxes": torch.tensor(3.0, requires_grad=True), "t_boxes": torch.tensor(5.0)}
    found = total(parts, LossSettings(s_boxes=2, t_boxes=10))
    assert float(found["loss"].detach()) == 56
    assert not found["s_boxes"].requires_grad
    assert float(found["s_boxes"]) == 3


def test_duplicated_images_leave_the_loss_and_permuted_ones_too() -> None:
    """Every part is a mean over what it sums."""
    task, images = make(), samples()
    once = task(collate(images))
    for batch in (collate([*images, *images]), collate(images[::-1])):
        again = task(batch)
        for name in ("loss", *PARTS):
            torch.testing.assert_close(again[name], once[name], rtol=1e-11, atol=1e-11)


def test_an_image_without_objects_counts_as_background_only() -> None:
    task = make()
    full, empty = sample(seed=1), sample((50, 90), seed=2, objects=0)
    alone, both = task(collate([full])), task(collate([full, empty]))
    torch.testing.assert_close(alone["refinement_boxes"], both["refinement_boxes"], rtol=1e-11, atol=0)
    torch.testing.assert_close(alone["s_boxes"], 2 * both["s_boxes"], rtol=1e-11, atol=0)  # twice the samples
    assert both["refinement_objectness"] > alone["refinement_objectness"]
