"""What the server of forked.py imports before it forks."""

import importlib

for _module in (
    "torch",
    "torch.distributed",
    "torch.onnx",
    "torch._dynamo",
    "torchvision",
    "onnxscript",
    "onnx",
    "onnxruntime",
    "faster_coco_eval",
    "matplotlib.pyplot",
    "pydantic",
    "mimicdet.api",
    "mimicdet.cli",
    "mimicdet.engine.train",
    "mimicdet.lab.commands.study",
    "mimicdet.lab.study.execute",
    *(f"mimicdet.commands.{name}" for name in ("train", "eval", "predict", "check", "convert", "cut", "export")),
    "tests.faults.hooks",
    "tests.faults.works",
    "tests.faults.cases",
):
    # A module that is not installed is missed by whoever needs it
    try:
        importlib.import_module(_module)
    except ImportError:
        continue
