"""Puts tasks together: from settings, with the teachers that they name, or from a run.

This is the only way to a task. A run's T-head may teach, so that reading teachers may build a task too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mimicdet.build import build_model, build_trunk, learning_of, load_model
from mimicdet.config import DistillSettings, FasterRcnnSettings, MimicDetSettings, Settings, settings_from
from mimicdet.config.mimicdet import AssignSettings
from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.models.detector import DetectionModel
from mimicdet.models.faster_rcnn import FasterRcnn
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.one_stage import OneStage
from mimicdet.models.pyramid import FinerLevel
from mimicdet.settings_file import load_settings
from mimicdet.streams import require_plain
from mimicdet.tasks.dense_lesson import Assignment, DenseLesson, OverlapAssignment, TeacherAssignment
from mimicdet.tasks.detect import DetectTask, FasterRcnnTask, OneStageTask
from mimicdet.tasks.distill import DistillTask
from mimicdet.tasks.mimic import MimicTask
from mimicdet.tasks.roi_lesson import MimicHead, RoiLesson
from mimicdet.tasks.task import Task
from mimicdet.teachers.dense import DenseTeacher
from mimicdet.teachers.roi import OwnFasterRcnn, RoiHead, RoiTeacher, TorchvisionFasterRcnn
from mimicdet.teachers.t_head import THead
from mimicdet.teachers.teacher import match_class_names
from mimicdet.weights.checkpoint_file import fault_in, load_checkpoint
from mimicdet.weights.folder import DESCRIPTION_FILE, read_description
from mimicdet.weights.pretrained import SUFFIXES, read_faster_rcnn


class MimicRun(NamedTuple):
    """Holds what a run of the mimic task has made so far."""

    task: MimicTask  # with its last weights, averaged where the run averages
    settings: Settings
    categories: list[Category]


class _Student(NamedTuple):
    """What teachers have to fit."""

    detector: DetectionModel
    family: str
    class_names: Sequence[str]


def build_task(
    settings: Settings, *, class_names: Sequence[str], pretrained: bool = True, detector: DetectionModel | None = None
) -> Task:
    """Builds the task that settings describe, with its detector and whatever teaches it.

    Args:
        class_names: of the data set; external teachers' classes are matched to them.
        pretrained: load ``settings.model.weights`` into the backbones; False leaves them random (weights come later).
        detector: train this one, which was built already, instead of building it.

    Raises:
        ValueError: ``detector`` has a backbone that does not return the T-head's finest level.
        UserError: backbone weights that cannot be fetched; a teacher's file that holds none, or a teacher whose
            classes, levels or head do not go together with the student's.
    """
    if detector is None:
        finest_level = None
        if settings.task == "mimic" and settings.teacher.backbone == "shared":
            finest_level = settings.teacher.levels[0]  # where the T-head pools from
        detector = build_model(settings.model, len(class_names), pretrained=pretrained, finest_level=finest_level)
    if settings.task == "mimic":
        assert isinstance(detector, MimicDet)
        return _mimic_task(settings, detector, pretrained)
    alone = _task_alone(settings, detector)
    if settings.task == "detect":
        return alone
    lessons = _lessons(settings.distill, _Student(detector, settings.model.family, class_names))
    return DistillTask(student=alone, lessons=lessons, settings=settings.distill)


def _task_alone(settings: Settings, detector: DetectionModel) -> Task:
    if isinstance(settings, MimicDetSettings):
        assert isinstance(detector, MimicDet)
        return DetectTask(detector=detector, settings=settings)
    if not isinstance(settings, FasterRcnnSettings):
        assert isinstance(detector, OneStage)
        return OneStageTask(detector=detector, learning=learning_of(settings))
    assert isinstance(detector, FasterRcnn)
    return FasterRcnnTask(detector=detector)


def _mimic_task(settings: MimicDetSettings, detector: MimicDet, pretrained: bool) -> MimicTask:
    teacher, model = settings.teacher, settings.model
    t_head = THead(
        in_channels=model.pyramid_channels,
        num_classes=detector.num_classes,
        features=model.head_features,
        conv_channels=teacher.conv_channels,
        variant=teacher.variant,
    )
    finest, finer_level, own_trunk = teacher.levels[0], None, None
    if teacher.backbone == "separate":
        own_trunk = build_trunk(model, teacher.levels, finest_level=finest, pretrained=pretrained)
    elif finest < model.levels[0]:
        if finest not in detector.trunk.backbone.channels:
            raise ValueError(f"the detector's backbone returns no level {finest}: build it with finest_level={finest}")
        width, channels = detector.trunk.backbone.channels[finest], model.pyramid_channels
        finer_level = FinerLevel(in_channels=width, channels=channels, level=finest, norm=model.pyramid_norm)
    return MimicTask(detector=detector, t_head=t_head, finer_level=finer_level, own_trunk=own_trunk, settings=settings)


def read_mimic_run(run: Path) -> MimicRun:
    """Reads the task in a run folder, which alone has the T-head: what ships has none.

    Raises:
        UserError: the folder holds no run, one of another task, or no checkpoint.
    """
    if not (run / "settings.yaml").is_file():
        raise UserError(
            f"{run} holds no run, which has settings.yaml and checkpoints; give the folder that --out named"
        )
    settings = load_settings(config=run / "settings.yaml")
    if settings.task != "mimic":
        raise UserError(f"{run} is a run of task '{settings.task}', which has no T-head; its model is {run / 'model'}")
    folder = next((run / name for name in ("model-last", "model") if (run / name / DESCRIPTION_FILE).is_file()), None)
    file = run / "checkpoints" / "last.pt"
    if folder is None:
        raise UserError(f"{run} holds no model yet; let the run go on with --resume")
    require_plain(file)
    if not file.is_file():
        raise UserError(
            f"{run} has no checkpoint, where the T-head is; if a study took the run over, name the study's folder in "
            "which it was trained"
        )
    categories = list(read_description(folder).categories)
    task = build_task(settings, class_names=[category.name for category in categories], pretrained=False)
    assert isinstance(task, MimicTask)
    fault = fault_in(file)
    try:
        saved = {} if fault else load_checkpoint(file)
        average = saved["average"]
        averaged = {key.removeprefix("module."): value for key, value in (average or {}).items() if "module." in key}
        task.load_state_dict(averaged or saved["task"])
    except Exception as error:  # whatever a file that is something else provokes
        why = fault or "it holds something else"
        raise UserError(f"{file} is not the checkpoint of {run} ({why}); resume that run once") from error
    return MimicRun(task, settings, categories)


def _lessons(settings: DistillSettings, student: _Student) -> list[DenseLesson | RoiLesson]:
    lessons: list[DenseLesson | RoiLesson] = []
    for path in settings.teachers:
        two_stage = _read_roi_head(Path(path))
        if two_stage is None:
            lessons.append(_dense_lesson(settings, path, student))
        else:
            lessons.append(_roi_lesson(settings, path, *two_stage, student))
    looks = any(isinstance(lesson, RoiLesson) for lesson in lessons)
    if not looks and settings.roi_samples != DistillSettings().roi_samples:
        raise UserError("distill.roi_samples has no meaning without a two-stage teacher; leave it out")
    return lessons


def _read_roi_head(path: Path) -> tuple[RoiHead, list[str]] | None:
    """The two-stage detector in a file, model folder or run folder, and its class names; None where there is none."""
    if path.suffix in SUFFIXES and path.is_file():
        found = read_faster_rcnn(path)
        return None if found is None else (TorchvisionFasterRcnn(model=found[0]), found[1])
    if (path / DESCRIPTION_FILE).is_file() and read_description(path).family == "faster_rcnn":
        loaded = load_model(path)
        assert isinstance(loaded.model, FasterRcnn)
        return OwnFasterRcnn(network=loaded.model), [category.name for category in loaded.categories]
    if (path / "settings.yaml").is_file() and (path / "checkpoints").is_dir():
        trained = read_mimic_run(path)
        return MimicHead(task=trained.task), [category.name for category in trained.categories]
    return None


def _roi_lesson(settings: DistillSettings, path: str, head: RoiHead, names: list[str], student: _Student) -> RoiLesson:
    given, usual = settings.model_dump(), DistillSettings().model_dump()
    of_dense_teachers = ("cross", "teacher_scale", "assignment")
    refused = next((f"distill.{name}" for name in of_dense_teachers if given[name] != usual[name]), None)
    if refused:
        raise UserError(
            f"{path}: {refused} has no meaning with a two-stage teacher, which looks at the student's own boxes; leave "
            "it out"
        )
    classes = match_class_names(names, student.class_names, path)
    return RoiLesson(RoiTeacher(head=head, classes=classes, name=path), settings.roi_samples)


def _dense_lesson(settings: DistillSettings, path: str, student: _Student) -> DenseLesson:
    loaded, name = load_model(path), str(Path(path))
    classes = match_class_names([c.name for c in loaded.categories], student.class_names, name)
    teacher = DenseTeacher(network=loaded.model, classes=classes, scale=settings.teacher_scale, name=name)
    family, own, theirs = loaded.settings.family, student.detector.trunk.level_numbers, teacher.level_numbers
    if not set(own) & set(theirs):
        raise UserError(
            f"{name}: the teacher's pyramid levels {list(theirs)} and the student's {list(own)} (model.levels) have "
            "none in common; choose another teacher"
        )
    if settings.cross:
        _require_equal_heads(teacher, family, student)
    assignment = _published_assignment(teacher, family) if settings.assignment == "teacher" else None
    same_family = family == student.family
    if isinstance(assignment, TeacherAssignment) and same_family and theirs == own:
        assignment = None  # a static rule of the student's own, which is worked out anyway
    return DenseLesson(teacher, assignment, same_anchors=same_family)


def _require_equal_heads(teacher: DenseTeacher, family: str, student: _Student) -> None:
    theirs, own, reason = teacher.level_numbers, student.detector.trunk.level_numbers, None
    if student.family == "mimicdet":
        reason = "MimicDet's S-head has no branch of convolutions to be cut"
    elif family != student.family:
        reason = f"the teacher is of family '{family}', the student of '{student.family}'"
    elif theirs != own:
        reason = f"the teacher's levels are {list(theirs)}, the student's {list(own)}"
    elif teacher.scale != 1:
        reason = "distill.teacher_scale is not 1"
    if reason:
        raise UserError(
            f"{teacher.name}: distill.cross needs one kind of head on the same levels of the same input, and {reason}; "
            "set distill.cross to 0 or choose another teacher"
        )


def _published_assignment(teacher: DenseTeacher, family: str) -> Assignment | None:
    """A family's published assignment; None where the student's must serve."""
    model = teacher.network
    if isinstance(model, MimicDet):
        return OverlapAssignment(AssignSettings().positive_iou)
    if teacher.scale != 1:
        return None  # on a scaled input a static rule would speak of another canvas
    assert isinstance(model, OneStage)
    published = settings_from({"model": {"family": family}})
    assert not isinstance(published, MimicDetSettings | FasterRcnnSettings)
    rule = learning_of(published).match
    return TeacherAssignment(rule, model.anchors, teacher.level_numbers)
