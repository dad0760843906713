"""Distillation tasks: literal loops over objects and positions, every pair of families, and what must never happen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.ops import box_iou

from mimicdet.build import build_model
from mimicdet.config import SETTINGS_OF, FasterRcnnSettings, InferenceSettings, TrunkSettings, settings_from
from mimicdet.data.batch import Batch
from mimicdet.data.dataset import Category
from mimicdet.engine.checkpoint import save_checkpoint
from mimicdet.errors import UserError
from mimicdet.settings_file import dump_settings
from mimicdet.tasks import build_task
from mimicdet.tasks.distill import LOSSES, DistillTask
from mimicdet.tasks.mimic import MimicTask
from mimicdet.tasks.roi_lesson import _chosen
from mimicdet.teachers.roi import RoiTeacher
from mimicdet.weights.folder import save_model
from tests.fakes.tiny import SIZES, enliven, tiny_batch, tiny_settings

FAMILIES = ("mimicdet", "retinanet", "fcos", "atss", "gfl")
NAMES = ("a", "b", "c")
OFF = dict.fromkeys(LOSSES, 0.0)


def model_settings(family: str, *, channels: int = 16, **changes: Any) -> TrunkSettings:
    own: dict[str, Any] = (
        {"head_channels": 8, "head_features": 12}
        if family == "mimicdet"
        else {"head_groups": 0 if family == "retinanet" else 4}
    )
    return SETTINGS_OF[family].Model(
        family=family,
        backbone="test_resnet",
        weights="random",
        pyramid_channels=channels,
        frozen_stages=0,
        **(own | changes),
    )


def save_teacher(
    folder: Path, family: str, *, seed: int = 1, names: tuple[str, ...] = NAMES, channels: int = 16, **changes: Any
) -> str:
    settings = model_settings(family, channels=channels, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(settings, len(names))
        enliven(model.s_head if family == "mimicdet" else model.head)  # type: ignore[union-attr,arg-type]
    save_model(
        folder,
        model,
        model_settings=settings.model_dump(mode="json"),
        inference=InferenceSettings().model_dump(mode="json"),
        categories=[Category(i + 1, name) for i, name in enumerate(names)],
    )
    return str(folder)


def make(
    teachers: list[str],
    family: str = "gfl",
    *,
    names: tuple[str, ...] = NAMES,
    seed: int = 0,
    model: dict[str, Any] | None = None,
    **distill: Any,
) -> DistillTask:
    settings = settings_from(
        {
            "task": "distill",
            "model": model_settings(family, **(model or {})).model_dump(),
            "distill": {"teachers": tuple(teachers), **distill},
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector = build_model(settings.model, 3)
        enliven(detector.s_head if family == "mimicdet" else detector.head)  # type: ignore[union-attr,arg-type]
        task = build_task(settings, class_names=names, detector=detector)
    assert isinstance(task, DistillTask)
    return task


def log_softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [v - math.log(total) for v in values]


def literal_rank(task: DistillTask, batch: Batch, teacher: nn.Module, which: str) -> float:
    """Equation 3, an image, an object and a positive at a time; both have one anchor a cell and the same rule."""
    step = task.student.step(batch)
    match = step.match()
    student_maps, teacher_maps = step.maps(), teacher.dense_maps(batch.images, batch.sizes)  # type: ignore[operator]
    total = 0.0
    for b in range(len(batch.labels)):
        objects = [k for k in range(batch.labels.shape[1]) if batch.labels[b, k] >= 0]
        image = 0.0
        for k in objects:
            positives = [a for a in range(match.shape[1]) if match[b, a] == k]
            if not positives:
                continue
            label = int(batch.labels[b, k])
            ranked = []
            for maps in (teacher_maps, student_maps):
                if which == "classification":
                    ranked.append([maps.logits[b, a, label].sigmoid().item() for a in positives])
                else:
                    ranked.append([box_iou(maps.boxes[b, a][None], batch.boxes[b, k][None]).item() for a in positives])
            log_t, log_s = (log_softmax(values) for values in ranked)
            image += sum(math.exp(t) * (t - s) for t, s in zip(log_t, log_s, strict=True))
        total += image / max(len(objects), 1)
    return total / len(batch.labels)


@pytest.mark.parametrize("which", ["classification", "localisation"])
@pytest.mark.parametrize("family", ["gfl", "retinanet"])
def test_rank_is_the_literal_one(tmp_path: Path, family: str, which: str) -> None:
    task = make([save_teacher(tmp_path, family)], family, **OFF | {"rank": 1.0}, rank_which=which)
    batch = tiny_batch()
    with torch.no_grad():
        expected = literal_rank(task, batch, task.teachers[0].network, which)
        assert expected > 1e-5
        assert task(batch)["rank"].item() == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("whose", ["teacher", "student"])
@torch.no_grad()
def test_mimicdet_ranks_the_positions_whose_boxes_overlap_an_object(tmp_path: Path, whose: str) -> None:
    """Not those of the refinement module, of which most objects have one."""
    task = make(
        [save_teacher(tmp_path, "mimicdet")],
        "mimicdet",
        **OFF | {"rank": 1.0},
        assignment=whose,
        rank_which="classification",
    )
    batch = tiny_batch()
    maps = task.student.step(batch).maps(), task.teachers[0].network.dense_maps(batch.images, batch.sizes)
    refined = task.detector.refine(batch.images, batch.sizes)
    boxes = maps[1].boxes if whose == "teacher" else refined.adjusted_boxes
    # Objects where boxes lie, of which the first image has two
    for b, (position, row) in ((0, (20, 0)), (0, (100, 1)), (1, (50, 0))):
        batch.boxes[b, row], batch.labels[b, row], batch.crowd[b, row] = boxes[b, position] + 1.5, 1, False
    total, most = 0.0, 0
    for b in range(len(batch.labels)):
        objects = [k for k in range(batch.labels.shape[1]) if batch.labels[b, k] >= 0 and not batch.crowd[b, k]]
        groups: dict[int, list[int]] = {k: [] for k in objects}
        for a in range(boxes.shape[1]):
            overlap = {k: box_iou(boxes[b, a][None], batch.boxes[b, k][None]).item() for k in objects}
            best = max(overlap, key=lambda k: overlap[k], default=None)
            if best is not None and overlap[best] >= 0.6 and maps[0].valid[b, a]:
                groups[best].append(a)
        most = max(most, *map(len, groups.values()), 0)
        image = 0.0
        for k, positions in groups.items():
            student, teacher = (
                log_softmax([side.logits[b, a, batch.labels[b, k]].sigmoid().item() for a in positions])
                if positions
                else []
                for side in maps
            )
            image += sum(math.exp(t) * (t - s) for t, s in zip(teacher, student, strict=True))
        total += image / max(len(objects), 1) / len(batch.labels)
    assert most > 2
    assert total > 1e-6
    assert task(batch)["rank"].item() == pytest.approx(total, rel=5e-3)


@torch.no_grad()
def test_both_ranks_add_up(tmp_path: Path) -> None:
    folder, batch = save_teacher(tmp_path, "gfl"), tiny_batch()
    one, other, both = (
        make([folder], **OFF | {"rank": 1.0}, rank_which=which)(batch)["rank"]
        for which in ("classification", "localisation", "both")
    )
    torch.testing.assert_close(one + other, both)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_to_learn_from_oneself(tmp_path: Path, family: str) -> None:
    on = dict.fromkeys(LOSSES, 1.0) | ({"cross": 0.0} if family == "mimicdet" else {})
    task = make([save_teacher(tmp_path, family)], family, **on)
    task.detector.load_state_dict(task.teachers[0].network.state_dict())
    task.eval()
    found = task(tiny_batch())
    for name in (name for name, weight in on.items() if weight):
        # CrossKD's boxes cost their own generalised IoU with themselves, which is 1
        assert abs(found[name].item()) < 2e-4, name
    torch.testing.assert_close(
        found["loss"].detach(), task.student.step(tiny_batch()).losses["loss"].detach(), atol=2e-3, rtol=1e-3
    )


@pytest.mark.parametrize("student", FAMILIES)
@pytest.mark.parametrize("teacher", FAMILIES)
def test_any_teacher_teaches_any_student(tmp_path: Path, student: str, teacher: str) -> None:
    """Widths differ, families too; every loss is finite, and the student alone learns."""
    cross = 1.0 if student == teacher != "mimicdet" else 0.0
    folder = save_teacher(tmp_path, teacher, channels=24)
    task = make([folder], student, **dict.fromkeys(LOSSES, 1.0) | {"cross": cross})
    before = {key: value.clone() for key, value in task.teachers[0].network.state_dict().items()}
    found = task(tiny_batch())
    assert all(found[name].isfinite() for name in (*task.weights, "loss"))
    assert all(found[name] >= -1e-6 for name in task.weights)
    found["loss"].backward()
    assert any(p.grad is not None and p.grad.any() for p in task.detector.parameters())
    assert all(p.grad is not None and p.grad.any() for p in task.adapters.parameters())
    for key, value in task.teachers[0].network.state_dict().items():
        torch.testing.assert_close(value, before[key], atol=0, rtol=0)


def test_the_teacher_is_in_no_state_and_no_parameters(tmp_path: Path) -> None:
    task = make([save_teacher(tmp_path, "atss", channels=24)], whole_map=1.0)
    assert {key.split(".")[0] for key in task.state_dict()} == {"detector", "adapters"}
    teacher = {id(p) for p in task.teachers[0].network.parameters()}
    assert not teacher & {id(p) for p in task.parameters()}
    assert not any(p.requires_grad for p in task.teachers[0].network.parameters())
    task.train()
    assert not task.teachers[0].network.training
    assert len(task.adapters[0]) == 1
    assert not list(make([save_teacher(tmp_path / "same", "atss")], whole_map=1.0).adapters.parameters())


def test_losses_of_weight_nothing_are_not_computed(tmp_path: Path) -> None:
    task = make([save_teacher(tmp_path, "gfl", channels=24)], **OFF | {"rank": 2.0})
    found = task(tiny_batch())
    assert not {"imitation", "whole_map", "correlation", "soft_labels", "cross"} & found.keys()
    assert not list(task.adapters.parameters())
    alone = task.student.step(tiny_batch()).losses["loss"]
    torch.testing.assert_close(found["loss"], alone + 2 * found["rank"])


def test_a_teacher_first_used_in_an_evaluation_can_teach(tmp_path: Path) -> None:
    """Weights that are moved in inference mode would be of no use to CrossKD's backward pass."""
    task, batch = make([save_teacher(tmp_path, "gfl")], **OFF | {"cross": 1.0}), tiny_batch()
    task.teachers[0].network.to(memory_format=torch.contiguous_format)  # so that there is something to move
    with torch.inference_mode():
        task.teachers[0].detect(batch.images, batch.sizes)
    task(batch)["loss"].backward()


def test_no_loss_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task 'distill' needs a loss: give one of distill\.rank, distill\.imi"):
        make([save_teacher(tmp_path, "gfl")], **OFF)


@torch.no_grad()
def test_several_teachers_are_averaged(tmp_path: Path) -> None:
    folders = [save_teacher(tmp_path / str(seed), "gfl", seed=seed) for seed in (1, 2)]
    batch = tiny_batch()
    one, other = (make([folder])(batch) for folder in folders)
    both = make(folders)(batch)
    for name in ("rank", "imitation"):
        torch.testing.assert_close(both[name], (one[name] + other[name]) / 2)


@torch.no_grad()
def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    """A teacher with the same classes in another order, other cases and one more gives the same losses."""
    same = make([save_teacher(tmp_path / "same", "gfl")], soft_labels=1.0)
    other = make([save_teacher(tmp_path / "other", "gfl", names=("x", "C ", "A", "b"))], soft_labels=1.0)
    theirs, ours = other.teachers[0].network.state_dict(), same.teachers[0].network.state_dict()
    for key, value in theirs.items():
        if "classifier" in key:
            value[[2, 3, 1]] = ours[key]
        else:
            value.copy_(ours[key])
    assert other.teachers[0].classes == (2, 3, 1)
    batch = tiny_batch()
    for name, value in same(batch).items():
        torch.testing.assert_close(other(batch)[name], value, equal_nan=True)


@torch.no_grad()
def test_classes_that_the_teacher_lacks_teach_nothing(tmp_path: Path) -> None:
    task = make([save_teacher(tmp_path, "gfl", names=("b", "z"))], **OFF | {"soft_labels": 1.0, "rank": 1.0})
    assert task.teachers[0].classes == (-1, 0, -1)
    batch = tiny_batch()
    maps = task.student.step(batch).maps()
    found = task(batch)
    task.detector.head.classifier.bias[[0, 2]] += 3  # type: ignore[union-attr,index,operator]
    assert not torch.equal(task.student.step(batch).maps().logits, maps.logits)
    for name in ("soft_labels", "rank"):
        torch.testing.assert_close(task(batch)[name], found[name])
    others = batch.labels != 1
    batch.labels[others & (batch.labels >= 0)] = 0
    batch.labels[:] = torch.where(batch.labels == 1, 0, batch.labels)
    assert task(batch)["rank"].item() == 0


@torch.no_grad()
def test_levels_and_sizes_may_differ(tmp_path: Path) -> None:
    folder = save_teacher(tmp_path, "fcos", levels=(3, 4, 5))
    for scale in (1.0, 1.5, 0.5):
        found = make([folder], "gfl", teacher_scale=scale, soft_labels=1.0, whole_map=1.0)(tiny_batch())
        assert found["loss"].isfinite()
    maps: Any = make([folder], "gfl", teacher_scale=2.0)
    batch = tiny_batch()
    student = maps.student.step(batch).maps()
    teacher = maps.teachers[0]
    levels = teacher.maps_for(student, teacher.dense_maps(batch.images, batch.sizes))
    assert set(levels) == {3, 4}  # its levels 4 and 5, whose cells cover the same pixels
    assert levels[3].feature.shape == student.features[0].shape
    assert levels[4].boxes.shape == (3, student.features[1][0, 0].numel(), 1, 4)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    gfl = save_teacher(tmp_path / "gfl", "gfl")
    with pytest.raises(UserError, match=r"classes \(x, y\) and the data set's \(a, b, c\) have no name in common"):
        make([save_teacher(tmp_path / "xy", "gfl", names=("x", "y"))])
    with pytest.raises(UserError, match=r"levels \[6, 7\]|\[3, 4\] and the student's \[5, 6\]"):
        make([save_teacher(tmp_path / "fine", "gfl", levels=(3, 4))], model={"levels": (5, 6)})
    for family, options, reason in (
        ("retinanet", {}, "the teacher is of family 'gfl', the student of 'retinanet'"),
        ("mimicdet", {}, "S-head has no branch"),
        ("gfl", {"teacher_scale": 1.3}, "teacher_scale is not 1"),
        ("gfl", {"model": {"levels": (3, 4, 5)}}, r"levels are \[3, 4, 5, 6, 7\], the student's \[3, 4, 5\]"),
    ):
        with pytest.raises(UserError, match=reason):
            make([gfl], family, cross=1.0, **options)
    with pytest.raises(UserError, match="is not a model folder"):
        make([str(tmp_path)])


@pytest.mark.parametrize("family", ["gfl", "retinanet", "mimicdet"])
def test_without_objects(tmp_path: Path, family: str) -> None:
    task = make([save_teacher(tmp_path, family, channels=24)], family, soft_labels=1.0, whole_map=1.0)
    for batch in (tiny_batch(objects=0), tiny_batch(SIZES[:1], objects=1)):
        task.zero_grad()
        found = task(batch)
        found["loss"].backward()
        assert found["loss"].isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())
    assert task(tiny_batch(objects=0))["rank"].item() == 0


@torch.no_grad()
def test_whose_assignment_counts(tmp_path: Path) -> None:
    """Within a family there is one rule; between families the teacher's and the student's differ."""
    batch = tiny_batch()

    def ranks(teacher: str) -> tuple[Tensor, Tensor]:
        folder = save_teacher(tmp_path / teacher, teacher)
        first, second = (make([folder], "gfl", assignment=who)(batch)["rank"] for who in ("teacher", "student"))
        return first, second

    same = ranks("gfl")
    torch.testing.assert_close(*same)
    other = ranks("fcos")
    assert not torch.isclose(*other)


@torch.no_grad()
def test_a_teacher_sees_the_images_once_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make([save_teacher(tmp_path, "gfl")], **dict.fromkeys(LOSSES, 1.0))
    model = task.teachers[0].on(torch.device("cpu"))
    calls = []
    original = model.maps
    monkeypatch.setattr(
        model, "maps", lambda *given: calls.append(torch.is_inference_mode_enabled()) or original(*given)
    )
    task(tiny_batch())
    assert calls == [True]


# Two-stage teachers


@pytest.fixture(scope="module")
def faster_rcnn(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    model = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    file = tmp_path_factory.mktemp("rcnn") / "faster.pth"
    torch.save(model.state_dict(), file)
    return str(file)


def save_run(folder: Path) -> tuple[str, MimicTask]:
    """A run folder of the mimic task, as training leaves it."""
    settings = tiny_settings(
        model=model_settings("mimicdet").model_dump(), teacher={"conv_channels": 8}, optim={"ema_decay": 0.5}
    )
    torch.manual_seed(3)
    task = build_task(settings, class_names=NAMES)
    assert isinstance(task, MimicTask)
    enliven(task.t_head)
    save_teacher(folder / "model-last", "mimicdet")
    average = {"n_averaged": torch.tensor(3)} | {f"module.{key}": value for key, value in task.state_dict().items()}
    (folder / "checkpoints").mkdir()
    save_checkpoint(folder / "checkpoints", {"task": {}, "average": average})
    (folder / "settings.yaml").write_text(dump_settings(settings))
    return str(folder), task


@torch.no_grad()
def test_torchvisions_faster_rcnn_scores_the_students_boxes(faster_rcnn: str) -> None:
    """The same numbers as its own second stage gives for the same boxes, whatever their order."""
    task = make([faster_rcnn], names=("dog", "cat", "person"))
    teacher = task.teachers[0]
    assert isinstance(teacher, RoiTeacher)
    assert teacher.classes == (17, 16, 0)
    model = teacher.head.network  # type: ignore[attr-defined]
    batch = tiny_batch(SIZES[:1] * 2)
    boxes = torch.tensor([[5.0, 5, 60, 70], [20, 10, 90, 50], [0, 0, 128, 96], [30, 30, 50, 80]])
    image, label = torch.tensor([1, 0, 1, 0]), torch.tensor([0, 1, 2, 0])
    view = teacher.view(batch.images, batch.sizes, boxes, image, label)
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (model.transform.image_mean, model.transform.image_std)
    )
    maps = model.backbone((batch.images.float() / 255 - mean) / std)
    for row in range(4):
        canvas = (batch.images.shape[2], batch.images.shape[3])
        own = {name: feature[image[row]][None] for name, feature in maps.items()}
        feature = model.roi_heads.box_head(model.roi_heads.box_roi_pool(own, [boxes[row : row + 1]], [canvas]))
        logits, deltas = model.roi_heads.box_predictor(feature)
        p = logits.softmax(-1)[0, [18, 17, 1]]
        torch.testing.assert_close(view.logits[row].sigmoid(), p, atol=1e-6, rtol=1e-4)
        moved = model.roi_heads.box_coder.decode(deltas, [boxes[row : row + 1]])[0, [18, 17, 1][int(label[row])]]
        torch.testing.assert_close(view.boxes[row], moved, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(view.features[row], feature[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("student", FAMILIES)
def test_a_t_head_teaches_any_student(tmp_path: Path, student: str) -> None:
    run, _ = save_run(tmp_path)
    task = make([run], student, **dict.fromkeys(LOSSES, 1.0) | {"cross": 0.0})
    found = task(tiny_batch())
    found["loss"].backward()
    assert all(found[name].isfinite() for name in (*task.weights, "loss"))
    assert any(p.grad is not None and p.grad.any() for p in task.detector.parameters())
    assert all(p.grad is not None and p.grad.any() for p in task.adapters.parameters())
    empty = task(tiny_batch(objects=0))
    assert empty["rank"].item() == 0
    assert empty["loss"].isfinite()


@torch.no_grad()
def test_a_t_head_comes_from_its_runs_averaged_weights(tmp_path: Path) -> None:
    run, saved = save_run(tmp_path)
    teacher = make([run]).teachers[0]
    assert isinstance(teacher, RoiTeacher)
    saved.eval()
    batch = tiny_batch()
    refined = saved.detector.refine(batch.images, batch.sizes)
    position = torch.tensor([10, 150, 3])
    image = torch.tensor([0, 1, 2])
    boxes = refined.places.anchors[position] + 1.5  # an anchor's own size belongs to its own level
    expected = saved._pooled(batch.images, refined, batch.sizes, boxes, image, refined.places.level[position])
    view = teacher.view(batch.images, batch.sizes, boxes, image, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(view.logits.sigmoid(), expected.logits.softmax(-1)[:, :-1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(view.features, expected.class_feature)
    found = teacher.detect(batch.images, batch.sizes)
    wanted = saved.detect_by_t_head(batch, InferenceSettings())
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.scores, other.scores)


@torch.no_grad()
def test_our_own_faster_rcnn_teaches_as_a_two_stage_detector(tmp_path: Path) -> None:
    settings = FasterRcnnSettings.Model(
        backbone="test_resnet",
        weights="random",
        pyramid_channels=16,
        head_features=20,
        levels=(2, 3, 4, 5, 6),
        frozen_stages=0,
    )
    torch.manual_seed(5)
    model = build_model(settings, 3)
    save_model(
        tmp_path,
        model,
        model_settings=settings.model_dump(mode="json"),
        inference=InferenceSettings().model_dump(),
        categories=[Category(i, name) for i, name in enumerate(("b", "c", "a"))],
    )
    task = make([str(tmp_path)], **OFF | {"rank": 1.0, "imitation": 1.0})
    (teacher,) = task.teachers
    assert isinstance(teacher, RoiTeacher)
    assert (teacher.classes, teacher.num_features) == ((2, 0, 1), 20)
    batch = tiny_batch()
    losses = task(batch)
    assert losses["rank"] >= 0
    assert losses["imitation"] > 0
    boxes, image = torch.tensor([[5.0, 5, 60, 70], [20, 10, 90, 50]]), torch.tensor([1, 0])
    view = teacher.view(batch.images, batch.sizes, boxes, image, torch.tensor([0, 2]))
    logits, moved, features = model.eval().second_stage_at(batch.images, batch.sizes, boxes, image)
    torch.testing.assert_close(view.logits.sigmoid(), logits.softmax(-1)[:, 1:][:, [2, 0, 1]], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(view.boxes, torch.stack([moved[0, 2], moved[1, 1]]))
    torch.testing.assert_close(view.features, features)
    assert len(teacher.detect(batch.images, batch.sizes)) == len(SIZES)


@torch.no_grad()
def test_positives_come_first_among_the_boxes_that_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = save_run(tmp_path)
    task = make([run], roi_samples=15)
    teacher = task.teachers[0]
    seen: list[Tensor] = []
    original = RoiTeacher.view

    def view(self: RoiTeacher, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor, label: Tensor) -> Any:
        seen.append(image)
        return original(self, images, sizes, boxes, image, label)

    monkeypatch.setattr(RoiTeacher, "view", view)
    batch = tiny_batch()
    step = task.student.step(batch)
    task(batch)
    assert isinstance(teacher, RoiTeacher)
    assert torch.bincount(seen[0]).tolist() == [15] * 3
    image, position = _chosen(step.maps(), step.match(), torch.ones(3, dtype=torch.bool), 15)
    for b in range(3):
        positives = (step.match()[b] >= 0).nonzero().flatten().tolist()
        own = position[image == b].tolist()
        assert set(own) <= set(positives) or set(positives) <= set(own)


def test_two_stage_teachers_that_do_not_fit(tmp_path: Path, faster_rcnn: str) -> None:
    run, _ = save_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"distill.cross has no meaning with a two-stage teacher"):
        make([run], cross=1.0)
    with pytest.raises(UserError, match=r"distill.teacher_scale has no meaning"):
        make([run], teacher_scale=2.0)
    with pytest.raises(UserError, match=r"distill.assignment has no meaning"):
        make([run], assignment="student")
    with pytest.raises(UserError, match=r"distill.roi_samples has no meaning without a two-stage teacher"):
        make([save_teacher(tmp_path / "dense", "gfl")], roi_samples=7)
    with pytest.raises(UserError, match="have no name in common"):
        make([faster_rcnn], names=("sea star", "urchin", "eel"))
    (tmp_path / "run/checkpoints/last.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is not the checkpoint of"):
        make([run])
    (tmp_path / "run/checkpoints/last.pt").unlink()
    with pytest.raises(UserError, match="has no checkpoint, where the T-head is"):
        make([run])
    settings = tmp_path / "run/settings.yaml"
    settings.write_text(settings.read_text().replace("task: mimic", "task: detect"))
    with pytest.raises(UserError, match="is a run of task 'detect'"):
        make([run])
