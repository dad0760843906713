"""Names what figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def machine() -> str:
    """Names device, Python and libraries; of a CPU also PyTorch's instructions, which decide how it rounds."""
    import torch

    names = ", ".join(f"{name} {version(name)}" for name in ("mimicdet", "torch", "torchvision", "timm"))
    kind = ", ".join(filter(None, [cpu_name(), torch.backends.cpu.get_cpu_capability()]))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores ({kind})"
    return f"{device}, Python {platform.python_version()}, {names}"


def cpu_name() -> str:
    """Returns the processor as it calls itself, such as ``AMD EPYC``; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
