"""A training on two hosts, each a network namespace of its own, of which one is cut off: all end, and resume right.

Needs root and the program ``ip``; without them nothing is tried, and the line says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.forked import Running, start
from tests.faults.full_disk import one_sentence
from tests.faults.kills import consequences, straight_run
from tests.faults.table import Line
from tests.faults.works import PAIR, Inputs, Words, run_command

TRIALS = 8
WAIT = 15
"""Seconds that a process waits for the others (MIMICDET_WAIT); all must have ended within three times as many."""
_NEW_NETWORK = 0x40000000


def why_not() -> str:
    """Says why two hosts cannot be made here; nothing where they can."""
    if os.geteuid() != 0:
        return "not tried: needs root"
    if shutil.which("ip") is None:
        return "not tried: needs the program ip"
    made = subprocess.run(["ip", "netns", "add", "mimicdet-try"], capture_output=True).returncode == 0
    subprocess.run(["ip", "netns", "del", "mimicdet-try"], capture_output=True)
    return "" if made else "not tried: network namespaces are not allowed here"


class TwoHosts:
    """Two network namespaces with a cable between them, the first at 10.77.0.1."""

    def __init__(self) -> None:
        self.names = [f"mimicdet-{os.getpid()}-{host}" for host in "ab"]

    def __enter__(self) -> TwoHosts:
        a, b = self.names
        for name in self.names:
            _ip("netns", "add", name)
        _ip("link", "add", "cable", "netns", a, "type", "veth", "peer", "name", "cable", "netns", b)
        for number, name in enumerate(self.names, start=1):
            _ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "cable", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)

    def cable(self, state: str) -> None:
        """Pulls the cable out of the second host ("down"), or puts it back ("up")."""
        _ip("-n", self.names[1], "link", "set", "cable", state)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _on_host(name: str, words: Words, folder: Path) -> int:
    with open(f"/var/run/netns/{name}") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "setns")
    return run_command(words, folder, None, None)


def _launch(two: TwoHosts, inputs: Inputs, folder: Path) -> list[Running]:
    place = {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29511", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    place |= {"LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": "cable", "MIMICDET_WAIT": str(WAIT)}
    words = PAIR.words(inputs, folder)
    return [
        start(_on_host, name, words, folder, log=folder.with_name(f"{folder.name}.{rank}.log"), environment=own)
        for rank, name in enumerate(two.names)
        for own in [place | {"RANK": str(rank)}]
    ]


def hosts(inputs: Inputs, place: Path, *, share: float, seed: int) -> Iterator[Line]:
    """Yields the line of all trials."""
    line, began = Line("two hosts, one cut off"), time.perf_counter()
    line.note = why_not()
    if not line.note:
        rng, home = random.Random(seed), place / "hosts"
        straight = straight_run(PAIR, inputs, home)
        for number in range(max(1, round(TRIALS * share))):
            folder = home / str(number)
            folder.mkdir()
            with TwoHosts() as two:
                running = _launch(two, inputs, folder)
                for one in running:
                    one.begun()
                metrics = folder / "run" / "metrics.jsonl"  # they have met
                deadline = time.monotonic() + 60
                while not metrics.exists() and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, straight.seconds / 2))
                two.cable("down")
                found = one_sentence(running, within=3 * WAIT)
            line.survive(found or consequences(PAIR, inputs, folder, straight))
    line.seconds = time.perf_counter() - began
    yield line
