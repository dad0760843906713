from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mimicdet.config import InferenceSettings, LossSettings
from mimicdet.data.batch import Batch, Sample, collate
from mimicdet.inference.decode import decode
from mimicdet.inference.flips import mirror_boxes, mirror_images
from mimicdet.models.detector import Predictions
from mimicdet.models.mimicdet import HEAD_STD
from mimicdet.models.s_head import HeadOutput
from mimicdet.ops.boxes import decode_deltas
from mimicdet.tasks import mimic as mimic_module
from mimicdet.tasks.detect import DetectTask
from mimicdet.tasks.mimic import MimicTask
from tests.fakes.tiny import gradients, on_canvas, sample, samples, tiny_batch, tiny_settings, tiny_task
from tests.tasks.literal import literal_loss

PARTS = (
    "refinement_objectness",
    "refinement_boxes",
    "s_classification",
    "s_boxes",
    "t_classification",
    "t_boxes",
    "mimic_classification",
    "mimic_boxes",
    "mimic_rank",
    "mimic_soft_labels",
)
SINGLE = {"model": {"head_paths": "single"}}


def make(dtype: torch.dtype = torch.float64, **sections: Any) -> MimicTask:
    task = tiny_task(tiny_settings(**sections), dtype=dtype)
    assert isinstance(task, MimicTask)
    return task


# Against the literal version


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"model": {"alignment": "deformable"}},
        {"model": {"offsets": "learned", "offset_grad": 0.1, "finest_kernel_size": 3}},
        {"teacher": {"levels": (3, 4, 5, 6, 7)}},
        {"teacher": {"variant": "light"}, **SINGLE},
        {"teacher": {"variant": "heavy"}, **SINGLE},
        {"mimic": {"classification": "feature", "negatives": False}},
        {"mimic": {"classification": "both", "detach_teacher": False}},
        {"mimic": {"classification": "centred_logits"}, "loss": {"mimic_boxes": 3.0, "t_boxes": 0.5}},
        {"mimic": {"weighting": "prediction"}, "loss": {"mimic_rank": 2.0}},
        {"mimic": {"weighting": "prediction", "negatives": False}, "loss": {"mimic_rank": 1.0}},
        {"mimic": {"detach_teacher": False}, "loss": {"mimic_rank": 50.0}},
        {"mimic": {"weighting": "prediction"}, "loss": {"mimic_soft_labels": 2.0}},
        {"mimic": {"detach_teacher": False, "negatives": False}, "loss": {"mimic_soft_labels": 9.0}},
        {"assign": {"s_class_choice": "balanced"}},
        {"assign": {"s_class_choice": "balanced", "s_class_samples": 9, "t_positive_fraction": 0.5}},
        {"assign": {"t_samples": 10, "t_positive_fraction": 0.5, "s_box_normalizer": "positives"}},
        {"model": {"levels": (4, 5, 6, 7), "pyramid_norm": "layer"}, "teacher": {"levels": (3, 4, 5, 6)}},
    ],
    ids=str,
)
def test_loss_and_gradient_are_those_of_the_literal_version(sections: dict[str, Any]) -> None:
    task, batch = make(**sections), tiny_batch()
    output, expected = task(batch), literal_loss(task, batch)
    assert {name for name in output if not name.startswith("diag/")} == set(expected) == {"loss", *PARTS}
    for name, value in expected.items():
        torch.testing.assert_close(output[name], value, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        assert float(value.detach()) > 0, f"{name} must say something"
    output["loss"].backward()
    found = gradients(task)
    wanted = torch.autograd.grad(expected["loss"], list(task.parameters()))
    for (name, gradient), other in zip(found.items(), wanted, strict=True):
        assert gradient is not None, name
        torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


# Where the mimic loss's gradient goes


def reached(task: MimicTask, batch: Batch, *names: str) -> set[str]:
    """The parts of the model that the gradient of these losses alone reaches."""
    weights = dict.fromkeys(PARTS, 0.0) | dict.fromkeys(names, 1.0)
    task.loss = task.loss.model_copy(update=weights)
    task(batch)["loss"].backward()
    found = set()
    for name, gradient in gradients(task).items():
        assert gradient is not None, name
        if gradient.any():
            found.add(name.removeprefix("detector.").removeprefix("trunk.").split(".")[0])
    return found


STUDENT = {"s_head", "pyramid", "backbone"}
MIMIC = ("mimic_classification", "mimic_boxes")


@pytest.mark.parametrize("kind", ["logits", "feature", "both", "centred_logits"])
@pytest.mark.parametrize("name", MIMIC)
def test_mimicking_teaches_the_s_head_and_the_pyramid_and_never_the_t_head(kind: str, name: str) -> None:
    assert reached(make(mimic={"classification": kind}), tiny_batch(), name) == STUDENT


@pytest.mark.parametrize("name", MIMIC)
def test_with_an_attached_teacher_it_reaches_the_t_head_too(name: str) -> None:
    found = reached(make(mimic={"detach_teacher": False}), tiny_batch(), name)
    assert found == STUDENT | {"t_head", "finer_level"}


def test_mimicking_reaches_the_refinement_module_through_the_offsets_where_asked_to() -> None:
    batch = tiny_batch()
    assert "refinement" in reached(make(model={"offset_grad": 0.1}), batch, *MIMIC)
    assert "refinement" not in reached(make(model={"offset_grad": 0.0}), batch, *MIMIC)


def test_each_other_loss_reaches_its_own_module() -> None:
    batch = tiny_batch()
    body = {"pyramid", "backbone"}
    for names, modules in (
        (("refinement_objectness",), body | {"refinement"}),
        (("refinement_boxes",), body | {"refinement"}),
        (("s_classification",), body | {"s_head"}),
        (("s_boxes",), body | {"s_head"}),
        (("t_classification",), body | {"t_head", "finer_level"}),
        (("t_boxes",), body | {"t_head", "finer_level"}),
    ):
        assert reached(make(), batch, *names) == modules, names


def test_mimicking_the_logits_does_not_touch_the_regressors() -> None:
    task = make(loss=dict.fromkeys(PARTS, 0.0) | {"mimic_classification": 1.0})
    task(tiny_batch())["loss"].backward()
    s_head = task.detector.s_head
    assert s_head.classifier.weight.grad is not None
    assert s_head.classifier.weight.grad.any()
    for layer in (s_head.regressor, s_head.box_features):
        assert layer.weight.grad is not None
        assert not layer.weight.grad.any()


def test_features_that_agree_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T-head that returns the S-head's own features, scaled, has nothing to teach; negated ones cost 2 a path."""
    task, batch = make(), tiny_batch()
    seen: list[HeadOutput] = []
    distances = task._distances

    def remember(scale: float) -> Callable[[HeadOutput, HeadOutput], tuple[Tensor, Tensor]]:
        def with_scale(_: HeadOutput, student: HeadOutput) -> tuple[Tensor, Tensor]:
            seen.append(student)
            return distances(HeadOutput(*(scale * field for field in student)), student)

        return with_scale

    monkeypatch.setattr(task, "_distances", remember(3.0))
    output = task(batch)
    for name in MIMIC:
        assert abs(float(output[name])) < 1e-12
    monkeypatch.setattr(task, "_distances", remember(-2.0))
    output = task(batch)
    for name in MIMIC:
        assert float(output[name]) == pytest.approx(2)
    assert len(seen[0].logits) == 3 * 24


# Settings


@pytest.mark.parametrize(
    ("section", "changes", "changed"),
    [
        ("assign", {"t_samples": 10}, PARTS[4:]),
        ("assign", {"t_positive_fraction": 0.0}, PARTS[4:]),
        ("assign", {"s_class_samples": 10}, ("s_classification", "s_boxes")),
        ("assign", {"s_class_choice": "balanced"}, ("s_classification",)),
        ("assign", {"s_box_samples": 2}, ("s_boxes",)),
        ("assign", {"s_box_normalizer": "positives"}, ("s_boxes",)),
        ("assign", {"center_fraction": 1.0}, PARTS[:2]),
        ("assign", {"ensure_match": False}, PARTS[:2]),
        ("assign", {"positive_iou": 0.8}, PARTS[2:]),
        ("assign", {"proposal_nms": 0.3}, PARTS[2:]),
        ("assign", {"proposals": 30}, PARTS[2:]),
        ("mimic", {"classification": "feature"}, ("mimic_classification",)),
        ("mimic", {"classification": "both"}, ("mimic_classification",)),
        ("mimic", {"classification": "centred_logits"}, ("mimic_classification",)),
        ("mimic", {"negatives": False}, (*MIMIC, "mimic_soft_labels")),
        ("mimic", {"weighting": "prediction"}, (*MIMIC, "mimic_soft_labels")),
        ("mimic", {"detach_teacher": False}, ()),
        *[("loss", {name: 3.0}, ()) for name in PARTS],
    ],
    ids=str,
)
def test_each_setting_changes_what_it_is_about_and_nothing_else(
    section: str, changes: dict[str, Any], changed: tuple[str, ...]
) -> None:
    # The first object holds no anchor centre in its middle, one inside
    first = sample(seed=5, objects=12)
    boxes = first.boxes.clone()
    boxes[0] = torch.tensor([10.5, 18.5, 18.0, 25.0])
    batch = collate([replace(first, boxes=boxes), *samples(seed=20, objects=12)])
    before, after = make()(batch), make(**{section: changes})(batch)
    for name in PARTS:
        moved = abs(float(before[name] - after[name])) > 1e-9
        assert moved == (name in changed), name
    if section == "loss":
        (name,) = changes
        default = LossSettings.model_fields[name].default
        torch.testing.assert_close(after["loss"], before["loss"] + (3 - default) * before[name])


def test_a_weight_of_zero_leaves_the_other_losses_alone() -> None:
    """Table 1, second row: with T-head, without mimic."""
    batch = tiny_batch()
    task = make(loss=dict.fromkeys(MIMIC, 0.0))
    output, plain = task(batch), make()(batch)
    torch.testing.assert_close(output["loss"], plain["loss"] - sum(plain[name] for name in MIMIC))
    assert all(torch.equal(output[name], plain[name]) for name in PARTS)


def test_table_1_the_student_s_losses_are_the_same_with_and_without_a_teacher() -> None:
    batch = tiny_batch()
    alone = tiny_task(tiny_settings(task="detect"), finest=2)
    assert isinstance(alone, DetectTask)
    with_teacher, without = make()(batch), alone(batch)
    for name in PARTS[:4]:
        torch.testing.assert_close(with_teacher[name], without[name], rtol=1e-12, atol=0)


# Batches


def unnormalised(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Makes the task's parts plain sums; the list collects the counts that they would be divided by."""
    counts: list[Tensor] = []

    def ones(shares: list[Tensor | None], positives: Tensor, whole: None) -> Tensor:
        values = torch.stack([positives if share is None else share for share in shares]).float()
        counts.append(values)
        return torch.ones_like(values)

    monkeypatch.setattr(mimic_module, "divisors", ones)
    return counts


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"model": {"alignment": "deformable"}},
        {"teacher": {"levels": (3, 4, 5, 6, 7), "variant": "heavy"}, **SINGLE},
    ],
    ids=str,
)
def test_a_batch_is_its_images_one_by_one_whatever_the_padding(
    sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = unnormalised(monkeypatch)
    task = make(**sections)
    images = [*samples(seed=3), sample((40, 33), seed=11, objects=0)]
    assert len({collate([one]).images.shape for one in images}) == 4
    batch = collate(images)
    alone = [task(collate([one])) for one in images]
    expected_counts = torch.stack(counts).sum(0)
    for whole in (batch, on_canvas(batch, 192, 256)):
        counts.clear()
        output = task(whole)
        for name in ("loss", *PARTS):
            values = torch.stack([one[name] for one in alone])
            wanted = values.mean() if name == "mimic_rank" else values.sum()  # that is a mean over images
            torch.testing.assert_close(output[name], wanted, rtol=1e-11, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(counts[0], expected_counts)


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 0, 2)])
def test_permuting_images_leaves_loss_and_gradient(order: tuple[int, ...]) -> None:
    images = samples()
    task, other = make(), make()
    first, second = task(collate(images)), other(collate([images[i] for i in order]))
    for name in ("loss", *PARTS):
        torch.testing.assert_close(first[name], second[name], rtol=1e-11, atol=1e-11)
    first["loss"].backward()
    second["loss"].backward()
    for name, gradient in gradients(task).items():
        torch.testing.assert_close(gradient, gradients(other)[name], rtol=1e-9, atol=1e-9)


# Every parameter, whatever the batch


def covered(one: Sample) -> Sample:
    """The sample under one crowd region: no proposal takes part in anything."""
    return replace(
        one, boxes=torch.tensor([[-2000.0, -2000, 2000, 2000]]), labels=torch.tensor([0]), crowd=torch.tensor([True])
    )


BATCHES: dict[str, Callable[[], Batch]] = {
    "objects": tiny_batch,
    "no objects": lambda: tiny_batch(objects=0),
    "one image without": lambda: collate([sample(seed=1), sample((40, 64), seed=2, objects=0)]),
    "no positives": lambda: collate([replace(one, boxes=one.boxes / 40) for one in samples()]),
    "crowd only": lambda: collate([replace(one, crowd=torch.ones_like(one.crowd)) for one in samples()]),
    "all ignored": lambda: collate([covered(one) for one in samples()]),
}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"task": "detect"},
    {"model": {"offsets": "learned"}},
    {"model": {"offsets": "box_grid"}},
    {"model": {"alignment": "deformable"}},
    {"model": {"alignment": "conv"}},
    {"model": {"alignment": "deformable", "finest_kernel_size": 3}, "task": "detect"},
    {"model": {"finest_kernel_size": 3, "offset_grad": 0.5}},
    {"teacher": {"variant": "light"}, **SINGLE},
    {"teacher": {"variant": "heavy", "levels": (3, 4, 5, 6, 7)}, **SINGLE},
    {"model": {"levels": (2, 3, 4, 5), "pyramid_norm": "layer"}, "teacher": {"levels": (2, 3, 4, 5)}},
    {"mimic": {"classification": "feature", "negatives": False, "detach_teacher": False}},
    {"loss": dict.fromkeys(PARTS, 0.0)},
]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("sections", VARIANTS, ids=str)
def test_every_parameter_gets_a_finite_gradient_whatever_the_batch(sections: dict[str, Any], batch: str) -> None:
    """So that several processes wait for the same gradients, without a search for unused parameters."""
    task = tiny_task(tiny_settings(**sections), dtype=torch.float32)
    output = task(BATCHES[batch]())
    for name in ("loss", *PARTS):
        assert name not in output or output[name].isfinite(), name
    output["loss"].backward()
    for name, gradient in gradients(task).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name


def test_what_batches_without_positives_cost() -> None:
    task = make()
    for kind in ("no objects", "no positives", "crowd only"):
        output = task(BATCHES[kind]())
        for name in ("s_boxes", "t_boxes"):
            assert float(output[name]) == 0, (kind, name)
        for name in ("refinement_objectness", "s_classification", "t_classification"):
            assert float(output[name]) > 0, (kind, name)
    output = task(BATCHES["all ignored"]())
    assert all(float(output[name]) == 0 for name in PARTS[1:])
    only = make(mimic={"negatives": False})
    output = only(BATCHES["no objects"]())
    assert all(float(output[name]) == 0 for name in MIMIC)


# Precision


@pytest.mark.parametrize("sections", [{}, {"model": {"alignment": "deformable"}}, {"task": "detect"}], ids=str)
def test_a_step_under_bfloat16_autocast(sections: dict[str, Any]) -> None:
    task, reference = (tiny_task(tiny_settings(**sections), dtype=torch.float32) for _ in range(2))
    batch = tiny_batch()
    with torch.autocast("cpu", torch.bfloat16):
        output = task(batch)
        dense = task.detector(batch.images, batch.sizes, dense=True, top=None)
        found = decode(task.detector(batch.images, batch.sizes), batch.sizes, InferenceSettings())
    assert all(value.dtype == torch.float32 for value in output.values())
    assert all(field.isfinite().all() for field in dense[1:])
    assert all(len(one.scores) for one in found)
    output["loss"].backward()
    for name, gradient in gradients(task).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.dtype == torch.float32
    expected = reference(batch)["loss"]
    torch.testing.assert_close(output["loss"], expected, rtol=0.05, atol=0)
    expected.backward()
    # Of the S-head too, which runs without gradient first; rounding may choose a few other proposals there
    for part in ("s_head", "refinement", "trunk.pyramid", "trunk.backbone"):
        parts = (t.detector.get_submodule(part) for t in (task, reference))
        a, b = (torch.cat([p.grad.flatten() for p in module.parameters()]) for module in parts)
        assert float(torch.cosine_similarity(a, b, dim=0)) > 0.75, part


def test_a_step_changes_every_part_of_the_model() -> None:
    task = make(dtype=torch.float32)
    before = {name: parameter.detach().clone() for name, parameter in task.named_parameters()}
    task(tiny_batch())["loss"].backward()
    torch.optim.SGD(task.parameters(), lr=0.01).step()
    same = [name for name, parameter in task.named_parameters() if torch.equal(parameter, before[name])]
    assert not same


# The T-head as a detector


def seen_by(**changes: Any) -> InferenceSettings:
    return InferenceSettings(**{"score_threshold": 0.05, "nms_iou": 0.5, "max_detections": 20} | changes)


def test_the_teacher_detects_on_the_boxes_that_the_student_sees() -> None:
    """Table 3: the same positions, the same post-processing."""
    task, batch = make(), tiny_batch()
    inference = seen_by(positions=40)
    found = task.detect_by_t_head(batch, inference)
    detector = task.detector
    seen = detector(batch.images, batch.sizes, top=40)
    refined = detector.refine(batch.images, batch.sizes)
    assert task.finer_level is not None
    levels = [task.finer_level(refined.pyramid, batch.sizes), *refined.pyramid.levels[:-1]]
    strides, logits, boxes = [4, 8, 16, 32, 64], [], []
    for i, positions in enumerate(seen.positions):
        adjusted = refined.adjusted_boxes[i, positions]
        out = task.t_head(levels, strides, adjusted, torch.full((40,), i), refined.places.level[positions])
        logits.append(out.logits)
        boxes.append(decode_deltas(out.deltas, adjusted, std=HEAD_STD))
    scores = torch.stack(logits).softmax(-1)[..., :-1]
    output = Predictions(seen.positions, scores, torch.stack(boxes))
    for a, b in zip(found, decode(output, batch.sizes, inference), strict=True):
        assert len(a.scores) > 3
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-10)
        torch.testing.assert_close(a.boxes, b.boxes, rtol=0, atol=1e-9)
        assert not a.boxes.requires_grad


def test_the_teacher_looks_at_mirrored_views_where_the_detector_does() -> None:
    task, batch = make(), tiny_batch()
    inference = seen_by(positions=40, flips="horizontal")
    turned = replace(batch, images=mirror_images(batch.images, batch.sizes, left_right=True, top_bottom=False))
    plain = task.detect_by_t_head(batch, inference)
    for a, b, size in zip(plain, task.detect_by_t_head(turned, inference), batch.sizes, strict=True):
        assert len(a.scores) > 3
        torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-10)
        mirrored = mirror_boxes(b.boxes, size, left_right=True, top_bottom=False)
        torch.testing.assert_close(a.boxes, mirrored, rtol=0, atol=1e-9)


def test_the_teachers_detections_do_not_depend_on_the_padding_or_the_batch() -> None:
    task, images = make(), samples()
    inference = seen_by()
    whole = task.detect_by_t_head(on_canvas(collate(images), 160, 192), inference)
    for one, expected in zip(images, whole, strict=True):
        (found,) = task.detect_by_t_head(collate([one]), inference)
        assert len(found.scores) > 3
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("weights", "lower"),
    [
        ({}, ("loss", "refinement_objectness", "refinement_boxes", "s_classification", "t_classification", "t_boxes")),
        (dict.fromkeys(PARTS[:6], 0.0), ("loss", *MIMIC)),
    ],
    ids=["all", "mimic"],
)
def test_forty_steps_on_one_batch_lower_the_losses(weights: dict[str, float], lower: tuple[str, ...]) -> None:
    task = make(dtype=torch.float32, loss=weights)
    optimizer = torch.optim.AdamW(task.parameters(), lr=2e-3)
    batch = tiny_batch()
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        output = task(batch)
        output["loss"].backward()
        optimizer.step()
        values.append({name: float(value.detach()) for name, value in output.items()})
    for name in lower:
        assert values[-1][name] < 0.7 * values[0][name], name
