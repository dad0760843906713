"""Names of options and settings that people know from other tools, and what they are called here."""

from collections.abc import Mapping

_SAME: Mapping[tuple[str, ...], str] = {
    ("optim.lr",): "lr lr0 learning_rate base_lr init_lr initial_lr max_lr",
    ("data.shorter_side", "inference.shorter_side", "size"): "imgsz img imgs img_size image_size input_size size "
    "img_scale min_size short_side resize resolution input_shape",
    ("data.longer_side", "inference.longer_side"): "max_size long_side",
    ("train.batch_size", "batch", "inference.batch_size"): "batch bs bsz batch_size train_batch_size ims_per_batch "
    "samples_per_gpu batch_size_per_gpu per_device_train_batch_size total_batch_size",
    ("threshold", "inference.score_threshold"): "conf conf_thres conf_thresh conf_threshold confidence min_conf "
    "confidence_threshold score score_thr score_thresh score_threshold min_score thres thresh threshold "
    "box_score_thresh",
    ("inference.nms_iou",): "iou iou_thr iou_thres iou_thresh iou_threshold nms nms_thr nms_thresh nms_threshold "
    "nms_iou_threshold box_nms_thresh",
    ("limit", "inference.max_detections"): "max_det max_dets max_detections max_per_img topk top_k limit "
    "detections_per_img box_detections_per_img num_select",
    ("device",): "device devices gpu gpus gpu_id gpu_ids cuda cpu no_cuda accelerator n_gpu num_gpus use_gpu",
    (
        "model.weights",
        "model",
        "models",
    ): "weights weight pretrained pretrain checkpoint ckpt ckpt_path model "
    "model_path load_from resume_from init_weights pretrained_weights model_file",
    ("data.workers", "parallel"): "workers worker num_workers nw n_workers dataloader_num_workers workers_per_gpu jobs "
    "num_proc",
    ("train.epochs",): "epochs epoch max_epochs max_epoch num_epochs n_epochs nb_epochs num_train_epochs total_epochs "
    "max_iter max_iters iters iterations steps max_steps",
    ("out", "pictures", "json"): "project name output outputs output_dir output_path out_dir outdir work_dir workdir "
    "save_dir save_path logdir log_dir exp exp_name experiment run_dir run_name dest",
    ("data", "sources"): "data dataset datasets data_path data_dir data_root dataset_dir data_yaml root coco_path "
    "annotations",
    ("sources", "data"): "source sources src input inputs image image_path img_path path file files images",
    ("config",): "cfg config_file config_path hyp hyps settings yaml",
    ("val", "split"): "val valid validation val_split eval_split val_set",
    ("split",): "subset train_split",
    ("train.seed",): "seed random_seed manual_seed random_state",
    ("optim.optimizer",): "optimizer opt optimiser",
    ("optim.momentum",): "momentum beta1",
    ("optim.weight_decay",): "weight_decay wd l2 decay",
    ("optim.warmup_steps",): "warmup warm_up warmup_epochs warmup_iters warmup_steps lr_warmup num_warmup_steps",
    ("optim.schedule",): "scheduler sched lr_scheduler lr_scheduler_type lr_schedule cos_lr cosine",
    ("optim.milestones",): "lr_steps lr_drop lr_step_size decay_epochs step_epochs",
    ("optim.gamma",): "lr_gamma lr_decay decay_rate",
    ("optim.clip_grad_norm",): "clip clip_norm grad_clip clip_grad max_norm max_grad_norm clip_max_norm "
    "gradient_clip_val",
    ("optim.accumulate",): "accumulate accum grad_accum accumulation_steps accumulate_grad_batches grad_accum_steps "
    "gradient_accumulation_steps",
    ("optim.ema_decay",): "ema use_ema model_ema ema_momentum",
    ("train.precision", "precision"): "amp no_amp use_amp fp16 bf16 half int8 mixed_precision dtype autocast precision",
    ("model.family",): "family detector algorithm model_type model_name",
    ("model.backbone",): "backbone arch architecture encoder net network",
    ("model.frozen_stages",): "freeze frozen freeze_at freeze_backbone freeze_layers trainable_backbone_layers",
    ("data.horizontal_flip",): "fliplr hflip flip random_flip flip_prob",
    ("data.vertical_flip",): "flipud vflip",
    ("data.quarter_turn",): "degrees rotate rotation",
    ("data.color_jitter",): "hsv hsv_h hsv_s hsv_v jitter color_jitter brightness contrast saturation",
    ("data.scale_jitter",): "scale scale_range lsj",
    ("inference.flips",): "augment tta test_time_augmentation",
    ("train.checkpoint_every",): "save_period save_interval save_freq save_steps save_every checkpoint_interval",
    ("train.eval_every",): "val_interval val_every eval_interval eval_freq eval_period check_val_every_n_epoch",
    ("train.log_every",): "log_interval log_freq log_period print_freq logging_steps log_every_n_steps",
    ("train.trackers",): "tracker trackers wandb use_wandb tensorboard tb mlflow logger loggers report_to",
    ("overwrite",): "exist_ok force overwrite_output_dir",
    ("format", "to"): "format to include target out_format export_format",
    ("pictures",): "save save_img save_image visualize vis vis_dir draw show view_img plot plots",
    ("json",): "save_json save_txt out_file json_file results",
    ("tile",): "slice slices slice_size slice_height slice_width tile_size patch_size crop_size window_size sahi",
    ("overlap",): "overlap_ratio overlap_height_ratio overlap_width_ratio",
}

_NONE: Mapping[str, str] = {
    "the device is chosen outside: CUDA_VISIBLE_DEVICES=1 for one GPU, torchrun for several, ACCELERATE_USE_CPU=1 for "
    "none": "device devices gpu gpus gpu_id gpu_ids cuda cpu no_cuda accelerator n_gpu num_gpus use_gpu",
    "there is no early stopping, for the best weights are kept anyway; train.epochs says how long to train": "patience "
    "early_stopping early_stop early_stopping_patience",
    "the data set says which classes there are": "nc num_classes classes class_names n_classes single_cls names",
    "torchrun starts several processes, such as torchrun --nproc-per-node 8 -m mimicdet train ...": "nproc "
    "nproc_per_node world_size distributed launcher num_nodes ddp local_rank num_machines",
}

COMMANDS: Mapping[str, str] = {
    **dict.fromkeys(("val", "valid", "validate", "test", "evaluate", "evaluation"), "eval"),
    **dict.fromkeys(("detect", "infer", "inference"), "predict"),
    **dict.fromkeys(("fit", "finetune"), "train"),
    **dict.fromkeys(("benchmark", "profile", "speed"), "bench"),
    **dict.fromkeys(("slice", "tile"), "cut"),
    **dict.fromkeys(("config", "cfg", "configs", "settings"), "presets"),
}
"""Other tools' commands, and ours."""


def _plain(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "")


_OURS: dict[str, tuple[str, ...]] = {}
for _names, _words in _SAME.items():
    for _word in _words.split():
        _OURS[_plain(_word)] = _OURS.get(_plain(_word), ()) + _names
_WHY = {_plain(word): why for why, words in _NONE.items() for word in words.split()}


def ours(name: str) -> tuple[str, ...]:
    """Returns our names of what other tools call so, options and settings, whatever command has them; perhaps none."""
    return _OURS.get(_plain(name), ())


def why_none(name: str) -> str | None:
    """Says why there is nothing here that other tools call so; None where nothing is to be said."""
    return _WHY.get(_plain(name))
