"""What figures say that they were measured on."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from mimicdet.lab.bench import cpu_name, machine


def test_linux_names_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Path, "read_text", lambda *_, **__: "processor : 0\nmodel name\t: Some CPU @ 2 GHz\nflags : a\n"
    )
    assert cpu_name() == "Some CPU @ 2 GHz"


@pytest.mark.parametrize("there", [True, False])
def test_elsewhere_python_does(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    def read(*_: object, **__: object) -> str:
        if not there:
            raise FileNotFoundError
        return "processor : 0\n"  # as on ARM

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert cpu_name() == "arm"


def test_what_decides_how_figures_are_rounded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimicdet.lab.bench.cpu_name", lambda: "Some CPU")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert f"(Some CPU, AVX2), Python {platform.python_version()}, mimicdet " in machine()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Some GPU")
    assert machine().startswith("Some GPU, Python ")
