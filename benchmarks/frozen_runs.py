"""The trainings and predictions whose results are frozen, as words of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field

SHARED = (
    "--data.shorter_side 80 96 --data.longer_side 128 --data.scale_jitter 0.8 1.25 --data.color_jitter 0.2 "
    "--data.workers 0 --optim.lr_batch 2 --optim.warmup_steps 0 --optim.schedule constant --train.epochs 1 "
    "--train.batch_size 2 --train.log_every 1 --train.eval_every 0 --train.pictures 0 --train.seed 3 "
    "--inference.shorter_side 96 --inference.longer_side 128 --inference.positions 200 "
    "--inference.score_threshold 0.001 --inference.nms_iou 0.5 --inference.max_detections 50"
)
SGD = "--optim.optimizer sgd --optim.lr 0.01 --optim.momentum 0.9 --optim.weight_decay 0.0001"
ADAMW = (
    "--optim.optimizer adamw --optim.lr 0.001 --optim.weight_decay 0.01 --optim.accumulate 2 --optim.ema_decay 0.9 "
    "--optim.clip_grad_norm 10 --optim.backbone_lr_factor 0.5 --optim.head_lr_factor 2"
)
LITE = "--model.backbone tf_efficientnet_lite0.in1k --model.frozen_stages 1 --model.freeze_batch_norm false"
RESNET = "--model.backbone resnet18.a1_in1k --model.frozen_stages 2 --model.freeze_batch_norm true"
TRUNK = "--model.weights random --model.pyramid_channels 32 --model.pyramid_norm layer"
LEVELS = "--model.levels 3 4 5 6 7"
HEAD = f"{LEVELS} --model.pyramid_top c5 --model.head_features 64 --model.head_channels 48"
T_HEAD = "--teacher.conv_channels 32"
STAGGERED = "--teacher.levels 2 3 4 5 6"
ASSIGN = "--assign.proposals 200 --assign.t_samples 48 --assign.s_class_samples 64 --assign.s_box_samples 32"
ALL_MIMICKING = "--loss.mimic_rank 1.0 --loss.mimic_soft_labels 0.5"

PLAIN = {"detections": ""}
TILED = {"detections in tiles, three at once": "--tile 64 --inference.batch_size 3"}
FLIPPED = {"detections in mirrored copies": "--inference.flips all"}
DENSE = {"detections by the dense S-head": "DENSE", "dense in mirrored tiles": "DENSE --tile 64 --inference.flips all"}
"""DENSE stands for the option of that meaning, which has another name in older revisions."""
EVERY_WAY = PLAIN | TILED | FLIPPED


@dataclass(frozen=True)
class Training:
    """A training and what is predicted with its model."""

    name: str
    options: str
    """Words of ``mimicdet train`` beside ``SHARED``."""
    teachers: tuple[str, ...] = ()
    """Names of earlier trainings; their models teach, or the T-head of those of the mimic task."""
    predictions: dict[str, str] = field(default_factory=dict)
    """Row -> words of ``mimicdet predict``."""
    exported: bool = False
    """The model is written with torch.export too, and predicts from there."""


def _mimic(name: str, options: str, **more: object) -> Training:
    return Training(f"mimic {name}", f"--task mimic --model.family mimicdet {TRUNK} {HEAD} {T_HEAD} {options}", **more)  # type: ignore[arg-type]


def _alone(family: str, options: str, **more: object) -> Training:
    return Training(f"detect {family}", f"--task detect --model.family {family} {TRUNK} {options}", **more)  # type: ignore[arg-type]


def _taught(name: str, options: str, *teachers: str, **more: object) -> Training:
    words = f"--task distill --distill.trust_teacher true {TRUNK} {SGD} {LITE} {options}"
    return Training(f"distill {name}", words, teachers=teachers, **more)  # type: ignore[arg-type]


RETINANET = f"{LEVELS} --model.pyramid_top c5 --model.head_groups 0"
OTHERS = f"{LEVELS} --model.pyramid_top p5 --model.head_groups 8"

TRAININGS = (
    _mimic("shared backbone", f"{SGD} {LITE} {STAGGERED} {ASSIGN} {ALL_MIMICKING}", predictions=PLAIN | DENSE),
    _mimic(
        "separate backbone",
        f"{SGD} {RESNET} {STAGGERED} {ASSIGN} --teacher.backbone separate --mimic.classification both "
        "--model.offsets learned --model.offset_grad 0.5",
        predictions=PLAIN,
    ),
    _mimic(
        "heavy",
        f"{SGD} {LITE} {STAGGERED} {ASSIGN} {ALL_MIMICKING} --teacher.variant heavy --model.head_paths single "
        "--model.alignment deformable --mimic.negatives false --mimic.detach_teacher false",
        predictions=PLAIN,
    ),
    _mimic(
        "light",
        f"{SGD} {LITE} {ASSIGN} --teacher.levels 3 4 5 6 7 --teacher.variant light --model.head_paths single "
        "--model.alignment conv --model.finest_kernel_size 5 --mimic.classification centred_logits",
        predictions=PLAIN,
    ),
    _mimic(
        "averaged",
        f"{ADAMW} {LITE} {STAGGERED} {ASSIGN} --model.offsets box_grid --model.head_init gaussian "
        "--mimic.weighting prediction --assign.s_class_choice balanced --assign.s_box_normalizer positives "
        "--assign.proposal_nms 1.0",
        predictions=PLAIN,
    ),
    _alone("mimicdet", f"{HEAD} {ASSIGN} {SGD} {LITE}", predictions=EVERY_WAY | DENSE, exported=True),
    _alone("retinanet", f"{RETINANET} {SGD} {LITE}", predictions=EVERY_WAY),
    _alone("fcos", f"{OTHERS} {SGD} {LITE}", predictions=EVERY_WAY),
    _alone("atss", f"{OTHERS} {ADAMW} {RESNET}", predictions=EVERY_WAY),
    _alone("gfl", f"{OTHERS} {SGD} {LITE}", predictions=EVERY_WAY, exported=True),
    _alone(
        "faster_rcnn",
        f"--model.levels 2 3 4 5 6 --model.pyramid_top p5 --model.head_features 64 {SGD} {LITE}",
        predictions=EVERY_WAY,
    ),
    _taught(
        "gfl from gfl, every loss",
        f"--model.family gfl {OTHERS} --model.head_init gaussian --distill.rank 4 --distill.imitation 1.5 "
        "--distill.whole_map 1 --distill.correlation 1 --distill.soft_labels 1 --distill.cross 1",
        "detect gfl",
        predictions=PLAIN,
    ),
    _taught(
        "mimicdet from atss and mimicdet",
        f"--model.family mimicdet {HEAD} {ASSIGN} --distill.rank 4 --distill.imitation 1.5 --distill.soft_labels 1",
        "detect atss",
        "detect mimicdet",
        predictions=PLAIN,
    ),
    _taught(
        "retinanet from fcos",
        f"--model.family retinanet {RETINANET} --model.pyramid_channels 24 --distill.rank 4 --distill.imitation 0 "
        "--distill.correlation 2",
        "detect fcos",
    ),
    _taught(
        "fcos from a T-head",
        f"--model.family fcos {OTHERS} --distill.rank 4 --distill.imitation 1.5 --distill.soft_labels 1",
        "mimic shared backbone",
    ),
    _taught(
        "gfl from the separate T-head's run",
        f"--model.family gfl {OTHERS} --distill.rank 4 --distill.imitation 1.5",
        "mimic separate backbone",
    ),
    _taught(
        "atss from faster_rcnn",
        f"--model.family atss {OTHERS} --distill.rank 4 --distill.imitation 1.5 --distill.soft_labels 1",
        "detect faster_rcnn",
    ),
)


def chosen(text: str) -> list[Training]:
    """Returns the trainings whose names hold ``text``, and before them those that teach them."""
    by_name = {training.name: training for training in TRAININGS}
    wanted = [training for training in TRAININGS if text in training.name]
    needed = {name for training in wanted for name in (training.name, *training.teachers)}
    return [training for name, training in by_name.items() if name in needed]
