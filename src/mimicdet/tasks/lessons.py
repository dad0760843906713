"""Teachers from their files, and how each goes together with the student: adapted, or refused with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from mimicdet.assign_dense import match_objects
from mimicdet.build import LoadedModel, learning_of, load_model
from mimicdet.config import AssignSettings, DenseSettings, DistillSettings, settings_from
from mimicdet.data.batch import Batch
from mimicdet.errors import UserError
from mimicdet.models.detector import DetectionModel
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.one_stage import OneStage
from mimicdet.tasks.dense_lesson import DenseLesson
from mimicdet.tasks.mimic_run import BuildTask
from mimicdet.tasks.roi_heads import read_roi_head
from mimicdet.tasks.roi_lesson import RoiLesson
from mimicdet.tasks.sites import Assignment, OverlapAssignment, TeacherAssignment
from mimicdet.teachers.dense import DenseTeacher
from mimicdet.teachers.roi import RoiHead, RoiTeacher
from mimicdet.teachers.teacher import match_classes


def make_lessons(
    settings: DistillSettings, detector: DetectionModel, family: str, class_names: Sequence[str], build_task: BuildTask
) -> list[DenseLesson | RoiLesson]:
    """Every teacher that the settings name, made ready for a student.

    Raises:
        UserError: a file that holds no teacher; classes, levels or heads that do not go together.
    """
    lessons: list[DenseLesson | RoiLesson] = []
    for path in settings.teachers:
        two_stage = read_roi_head(Path(path), build_task)
        if two_stage is None:
            lessons.append(_dense_lesson(settings, path, load_model(path), detector, family, class_names))
        else:
            lessons.append(_roi_lesson(settings, path, *two_stage, class_names))
    looks = any(isinstance(lesson, RoiLesson) for lesson in lessons)
    if not looks and settings.roi_samples != DistillSettings().roi_samples:
        raise UserError("distill.roi_samples has no meaning without a two-stage teacher; leave it out")
    return lessons


def _roi_lesson(
    settings: DistillSettings, path: str, head: RoiHead, names: Sequence[str], class_names: Sequence[str]
) -> RoiLesson:
    given, usual = settings.model_dump(), DistillSettings().model_dump()
    of_dense_teachers = ("cross", "teacher_scale", "assignment")
    refused = next((f"distill.{name}" for name in of_dense_teachers if given[name] != usual[name]), None)
    if refused:
        raise UserError(
            f"{path}: {refused} has no meaning with a two-stage teacher, which looks at the student's own boxes; leave "
            "it out"
        )
    teacher = RoiTeacher(head=head, classes=match_classes(names, class_names, path), name=path)
    return RoiLesson(teacher, settings.roi_samples)


def _dense_lesson(
    settings: DistillSettings,
    path: str,
    loaded: LoadedModel,
    detector: DetectionModel,
    family: str,
    class_names: Sequence[str],
) -> DenseLesson:
    name = str(Path(path))
    classes = match_classes([c.name for c in loaded.categories], class_names, name)
    teacher = DenseTeacher(network=loaded.model, classes=classes, scale=settings.teacher_scale, name=name)
    own, theirs = detector.trunk.level_numbers, teacher.level_numbers
    if not set(own) & set(theirs):
        raise UserError(
            f"{name}: the teacher's pyramid levels {list(theirs)} and the student's {list(own)} (model.levels) have "
            "none in common; choose another teacher"
        )
    same_family = loaded.settings.family == family
    if settings.cross:
        _require_equal_heads(settings, name, loaded.settings.family, family, theirs, own)
    assignment = _assignment(teacher, loaded.settings.family) if settings.assignment == "teacher" else None
    if isinstance(assignment, TeacherAssignment) and same_family and theirs == own:
        assignment = None  # a static rule of the student's own, which is worked out anyway
    return DenseLesson(teacher, assignment, same_anchors=same_family, cross_depth=3)


def _require_equal_heads(
    settings: DistillSettings, name: str, theirs: str, own: str, levels: Sequence[int], own_levels: Sequence[int]
) -> None:
    reason = None
    if own == "mimicdet":
        reason = "MimicDet's S-head has no branch of convolutions to be cut"
    elif theirs != own:
        reason = f"the teacher is of family '{theirs}', the student of '{own}'"
    elif tuple(levels) != tuple(own_levels):
        reason = f"the teacher's levels are {list(levels)}, the student's {list(own_levels)}"
    elif settings.teacher_scale != 1:
        reason = "distill.teacher_scale is not 1"
    if reason:
        raise UserError(
            f"{name}: distill.cross needs one kind of head on the same levels of the same input, and {reason}; set "
            "distill.cross to 0 or choose another teacher"
        )


def _assignment(teacher: DenseTeacher, family: str) -> Assignment | None:
    """A family's published assignment; None where the student's must serve."""
    model = teacher.network
    if isinstance(model, MimicDet):
        return OverlapAssignment(positive_iou=AssignSettings().positive_iou)
    if teacher.scale != 1:
        return None  # on a scaled input a static rule would speak of another canvas
    assert isinstance(model, OneStage)
    published = settings_from({"model": {"family": family}})
    assert isinstance(published, DenseSettings)
    match, anchors = learning_of(published).recipe.match, model.anchors

    def rule(batch: Batch, shapes: Sequence[tuple[int, int]], canvas: tuple[int, int]) -> Tensor:
        places = anchors(shapes, canvas)
        return match_objects(match, places, places.valid(batch.sizes), batch.boxes, batch.labels, batch.crowd)

    return TeacherAssignment(rule=rule, level_numbers=teacher.level_numbers, per_cell=anchors.per_cell)
