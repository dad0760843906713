"""What exports and studies need too."""

import contextlib
import importlib

import mimicdet.commands.export
import mimicdet.lab.commands.study
import mimicdet.lab.study.execute  # noqa: F401

for _module in ("torch._dynamo", "torch.onnx", "onnxscript", "onnx", "onnxruntime", "matplotlib.pyplot"):
    with contextlib.suppress(ImportError):  # whoever needs it says so
        importlib.import_module(_module)
