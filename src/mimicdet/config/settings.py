"""The whole, and which settings go together."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from mimicdet.config.detector import (
    AssignSettings,
    DistillSettings,
    Family,
    LossSettings,
    MimicSettings,
    ModelSettings,
    OneStageSettings,
    TeacherSettings,
    unread_of_model,
)
from mimicdet.config.run import DataSettings, InferenceSettings, OptimSettings, TrainSettings
from mimicdet.config.section import Section


class Settings(Section):
    """Everything a run depends on, besides the data."""

    task: Literal["mimic", "detect", "distill"] = "mimic"
    """`mimic` trains S-head and T-head together; `detect` trains a detector alone, without a T-head; `distill` trains
    it alone with frozen teachers."""
    model: ModelSettings = ModelSettings()
    teacher: TeacherSettings = TeacherSettings()
    assign: AssignSettings = AssignSettings()
    mimic: MimicSettings = MimicSettings()
    loss: LossSettings = LossSettings()
    one_stage: OneStageSettings = OneStageSettings()
    distill: DistillSettings = DistillSettings()
    data: DataSettings = DataSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    inference: InferenceSettings = InferenceSettings()

    @model_validator(mode="after")
    def _family_and_task_match(self) -> Settings:
        family = self.model.family
        if self.task == "mimic" and family != "mimicdet":
            raise ValueError(
                f"task 'mimic' trains MimicDet's two heads, not model.family '{family}'; use task 'detect'"
            )
        if (self.task == "distill") != bool(self.distill.teachers):
            raise ValueError("distill.teachers are for task 'distill', which needs one at least; give both or none")
        if self.task == "distill" and family == "faster_rcnn":
            raise ValueError("task 'distill' teaches one-stage detectors, not model.family 'faster_rcnn'")
        changed = [k for k in DistillSettings.model_fields if getattr(self.distill, k) != _default(self.distill, k)]
        if self.task != "distill" and changed:
            raise ValueError(f"distill.{changed[0]} has no meaning for task '{self.task}'; use task 'distill'")
        if self.task == "distill" and not any(getattr(self.distill, name) for name in _LOSSES):
            raise ValueError(f"task 'distill' needs a loss: give one of distill.{', distill.'.join(_LOSSES)} a weight")
        for name in sorted(meaningless(family)):
            section, _, key = name.rpartition(".")
            if section != "model" and getattr(getattr(self, section), key) != _default(getattr(self, section), key):
                raise ValueError(
                    f"{name} has no meaning for model.family '{family}'; leave it out, or take a preset of that family "
                    "(mimicdet presets)"
                )
        if family == "retinanet" and self.one_stage.negative_iou > self.one_stage.positive_iou:
            raise ValueError(
                f"one_stage.negative_iou {self.one_stage.negative_iou} must not be above one_stage.positive_iou "
                f"{self.one_stage.positive_iou}"
            )
        return self

    @model_validator(mode="after")
    def _levels_match(self) -> Settings:
        if self.task == "mimic" and len(self.teacher.levels) != len(self.model.levels):
            raise ValueError(
                f"teacher.levels {list(self.teacher.levels)} must name one level for each of "
                f"model.levels {list(self.model.levels)}"
            )
        if self.task == "mimic" and self.teacher.levels[0] not in (self.model.levels[0], self.model.levels[0] - 1):
            raise ValueError(
                f"teacher.levels {list(self.teacher.levels)} must start at the level of model.levels "
                f"{list(self.model.levels)} or one below"
            )
        if self.task == "mimic" and (self.teacher.variant == "dual") != (self.model.head_paths == "dual"):
            raise ValueError(
                f"teacher.variant {self.teacher.variant!r} needs model.head_paths "
                f"{'dual' if self.teacher.variant == 'dual' else 'single'!r}: both heads split features or neither"
            )
        if self.model.head_paths == "single" and self.mimic.classification in ("feature", "both"):
            raise ValueError(
                f"mimic.classification {self.mimic.classification!r} counts the one feature of "
                f"model.head_paths 'single' twice; use 'logits' or 'centred_logits', or set "
                f"loss.mimic_classification to 0 for the feature alone"
            )
        return self


def _default(section: Section, key: str) -> object:
    return type(section).model_fields[key].default


def meaningless(family: Family) -> set[str]:
    """Dotted names of the settings that a family of detectors does not read, whatever the task."""
    unread = {f"model.{key}" for key in unread_of_model(family)}
    if family == "mimicdet":
        return unread | {f"one_stage.{key}" for key in OneStageSettings.model_fields}
    for name in ("teacher", "assign", "mimic", "loss"):
        unread |= {f"{name}.{key}" for key in Settings.model_fields[name].annotation.model_fields}  # type: ignore[union-attr]
    if family == "faster_rcnn":
        return unread | {f"one_stage.{key}" for key in OneStageSettings.model_fields}
    return unread | {f"one_stage.{key}" for key in set().union(*_READS.values()) - _READS[family]}


_READS = {
    "retinanet": {"positive_iou", "negative_iou", "focal_alpha"},
    "fcos": {"center_radius", "focal_alpha", "quality"},
    "atss": {"candidates", "focal_alpha", "quality"},
    "gfl": {"candidates", "distribution"},
}
"""What only some of the one-stage detectors read of ``OneStageSettings``."""

_LOSSES = ("rank", "imitation", "whole_map", "correlation", "soft_labels", "cross")
"""Weights of what a student takes over from teachers."""
