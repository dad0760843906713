import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data._utils.pin_memory import pin_memory as torch_pin_memory

from mimicdet.data import decode
from mimicdet.data.batch import Batch
from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord
from mimicdet.data.decode import read_reduced
from mimicdet.data.loader import EvalLoader, TrainData, TrainLoader, _Parcel
from mimicdet.data.order import image_seed, rank_indices, sampling_seed
from mimicdet.data.transform import TrainTransform, resize_for_inference
from mimicdet.errors import UserError

N = 7
SETTINGS: dict[str, Any] = {
    "shorter_side": (80, 110),
    "shorter_side_sampling": "range",
    "longer_side": 160,
    "scale_jitter": (0.7, 1.5),
    "horizontal_flip": 0.5,
    "vertical_flip": 0.5,
    "quarter_turn": 0.5,
    "color_jitter": 0.4,
}
TRANSFORM = TrainTransform(**SETTINGS)


@pytest.fixture
def dataset(tmp_path: Path) -> DetectionDataset:
    rng = np.random.default_rng(0)
    images = []
    for i in range(N):
        height, width = 220 + 10 * i, 300 - 15 * i
        file = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(file, compress_level=0)
        corners = np.sort(rng.uniform(0, 200, (i, 2, 2)), axis=1)  # the first image has no objects
        images.append(
            ImageRecord(
                id=100 + 3 * i,
                file=file,
                height=height,
                width=width,
                boxes=corners.reshape(i, 4),
                labels=rng.integers(0, 2, i),
                crowd=rng.random(i) < 0.3,
                areas=np.ones(i),
            )
        )
    return DetectionDataset(tmp_path, "train", "coco", (Category(1, "a"), Category(5, "b")), tuple(images))


def batches_of(epoch: int) -> list[list[int]]:
    return rank_indices(N, seed=3, epoch=epoch, rank=0, world_size=1, batch_size=2, accumulate=1)


def content(batch: Batch) -> bytes:
    """Every field, byte for byte."""
    fields = vars(batch).values()
    return pickle.dumps([(v.dtype, v.shape, v.numpy().tobytes()) if torch.is_tensor(v) else v for v in fields])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_are_the_same_byte_for_byte_for_any_number_of_workers(dataset: DetectionDataset) -> None:
    """Two epochs, and the second one started again in its middle."""
    runs = []
    for workers in (0, 1, 3):
        loader = TrainLoader(TrainData(dataset, TRANSFORM, seed=3), workers=workers)
        epochs = [[content(b) for b in loader.epoch(e, batches_of(e))] for e in (0, 1)]
        resumed = [content(b) for b in loader.epoch(1, batches_of(1), start_batch=2)]
        assert len(epochs[0]) == 4
        assert epochs[0] != epochs[1]
        assert resumed == epochs[1][2:]
        runs.append(epochs)
    assert runs[0] == runs[1] == runs[2]


class ThreadCounter(TrainTransform):
    """Puts the number of threads that it is given into the labels."""

    scale = 1.0

    def plan(self, size: tuple[int, int], generator: torch.Generator) -> Any:
        return self

    def apply(self, image: Any, boxes: Any, labels: Any, crowd: Any, *, reduction: int) -> Any:
        threads = torch.tensor([torch.get_num_threads()])
        return torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 4), threads, threads < 0


@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_varied_by_one_thread(dataset: DetectionDataset, workers: int) -> None:
    """Sums over pixels (the mean that contrast needs) round by how threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        counter = ThreadCounter(**SETTINGS)
        batches = TrainLoader(TrainData(dataset, counter, seed=3), workers=workers).epoch(0, batches_of(0))
        assert [batch.labels.unique().tolist() for batch in batches] == [[1]] * 4
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def large_photograph(tmp_path: Path) -> DetectionDataset:
    """A smooth JPEG file of 1,200 x 901 pixels with a bright box, and a PNG file of the same."""
    pixels = np.full((901, 1200, 3), 40, np.uint8)
    pixels[300:700, 200:800] = 220
    records = []
    for i, name in enumerate(("a.jpg", "b.png")):
        Image.fromarray(pixels).save(tmp_path / name)
        records.append(
            ImageRecord(
                id=i,
                file=tmp_path / name,
                height=901,
                width=1200,
                boxes=np.array([[200.0, 300.0, 800.0, 700.0]]),
                labels=np.zeros(1, np.int64),
                crowd=np.zeros(1, bool),
                areas=np.ones(1),
            )
        )
    return DetectionDataset(tmp_path, "train", "coco", (Category(1, "a"),), tuple(records))


def test_large_jpeg_files_are_not_decoded_in_full(
    large_photograph: DetectionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 80 to 110 pixels times a zoom of 0.7 to 1.5, from 901: an eighth, a quarter where the window is small."""
    seen = []

    def spy(file: Path, reduction: int) -> Any:
        seen.append((file.suffix, reduction))
        return read_reduced(file, reduction)

    monkeypatch.setattr("mimicdet.data.loader.read_reduced", spy)
    settings = {**SETTINGS, "color_jitter": 0.0}
    reduced = TrainData(large_photograph, TrainTransform(**settings), seed=3)
    whole = TrainData(large_photograph, TrainTransform(**settings), seed=3, reduce_jpeg=False)
    for epoch in range(20):
        for index in range(2):
            ours, expected = reduced[epoch, index], whole[epoch, index]
            assert ours.image.shape == expected.image.shape
            assert ours.original_size == (901, 1200)
            # The window's sides are whole pixels of what was decoded: half of an eighth's pixel either way
            torch.testing.assert_close(ours.boxes, expected.boxes, atol=1.2, rtol=0)
            if len(ours.boxes):  # and the picture moved along with its box
                x1, y1, x2, y2 = ours.boxes[0].tolist()
                bright = ours.image[0] > 130
                assert bright.sum().item() == pytest.approx((x2 - x1) * (y2 - y1), rel=0.04)
                found = bright.nonzero()
                corners = [*found.amin(0).flip(0).tolist(), *(found.amax(0).flip(0) + 1).tolist()]
                assert corners == pytest.approx([x1, y1, x2, y2], abs=0.8)
    assert {r for suffix, r in seen if suffix == ".jpg"} == {1, 4, 8}  # 1 where it was told to
    torch.testing.assert_close(reduced[0, 1].image, whole[0, 1].image, rtol=0, atol=0)  # PNG files come whole


def test_a_png_of_half_its_recorded_size_is_refused(large_photograph: DetectionDataset, tmp_path: Path) -> None:
    """It must not pass for one that was decoded at half its size."""
    Image.new("RGB", (600, 451)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match="is 600 x 451 pixels but its record says 1200 x 901"):
        TrainData(large_photograph, TRANSFORM, seed=0)[0, 1]


def test_an_epoch_that_was_left_early_leaves_nothing_behind(dataset: DetectionDataset) -> None:
    loader = TrainLoader(TrainData(dataset, TRANSFORM, seed=3), workers=1)
    assert next(loader.epoch(0, batches_of(0)))
    alone = TrainLoader(TrainData(dataset, TRANSFORM, seed=3), workers=0)
    expected = [content(b) for b in alone.epoch(5, batches_of(5))]
    assert [content(b) for b in loader.epoch(5, batches_of(5))] == expected


def test_an_item_is_a_function_of_seed_epoch_and_index(dataset: DetectionDataset) -> None:
    data = TrainData(dataset, TRANSFORM, seed=3)
    sample = data[4, 2]
    record = dataset.images[2]
    generator = torch.Generator().manual_seed(image_seed(3, 4, 2))
    plan = TRANSFORM.plan(record.size, generator)
    pixels = np.asarray(Image.open(record.file))
    image, boxes, labels, crowd = plan.apply(pixels, record.boxes, record.labels, record.crowd)
    for got, expected in ((sample.image, image), (sample.boxes, boxes), (sample.labels, labels), (sample.crowd, crowd)):
        assert torch.equal(got, expected)
    assert (sample.image_id, sample.file) == (record.id, str(record.file))
    assert sample.original_size == (record.height, record.width)
    assert sample.seed == sampling_seed(image_seed(3, 4, 2))
    assert len({data[e, i].seed for e in range(3) for i in range(N)}) == 3 * N
    assert len(data) == N


def test_records_survive_being_packed_for_the_workers(dataset: DetectionDataset) -> None:
    records = pickle.loads(pickle.dumps(TrainData(dataset, TRANSFORM, seed=0))).records
    for i, expected in enumerate(dataset.images):
        for name, value in vars(expected).items():
            np.testing.assert_array_equal(getattr(records[i], name), value, strict=isinstance(value, np.ndarray))


def test_evaluation_shows_every_image_once_in_order_over_the_ranks(dataset: DetectionDataset) -> None:
    seen: dict[int, list[int]] = {}
    for rank in (0, 1):
        loader = EvalLoader(
            dataset, shorter_side=100, longer_side=150, batch_size=3, workers=0, rank=rank, world_size=2
        )
        for _ in range(2):  # as often as one likes
            batches = list(loader)
            assert len(batches) == len(loader)
            seen[rank] = [image_id for batch in batches for image_id in batch.image_ids]
    ids = [record.id for record in dataset.images]
    assert (seen[0], seen[1]) == (ids[::2], ids[1::2])


def test_evaluation_images_are_what_prediction_makes_of_them(dataset: DetectionDataset) -> None:
    single, shared = (
        list(EvalLoader(dataset, shorter_side=100, longer_side=150, batch_size=3, workers=w, divisor=16))
        for w in (0, 2)
    )
    assert [content(b) for b in single] == [content(b) for b in shared]
    for at, batch in enumerate(single):
        assert batch.boxes.shape[1] == 0
        assert batch.images.shape[2] % 16 == batch.images.shape[3] % 16 == 0
        for i, (height, width) in enumerate(batch.sizes.tolist()):
            record = dataset.images[3 * at + i]
            expected = resize_for_inference(np.asarray(Image.open(record.file)), 100, 150)
            assert torch.equal(batch.images[i, :, :height, :width], expected)
            assert batch.original_sizes[i] == (record.height, record.width)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_lost_image_gives_its_own_sentence(dataset: DetectionDataset, workers: int) -> None:
    lost = dataset.images[4].file
    lost.unlink()
    for batches in (
        TrainLoader(TrainData(dataset, TRANSFORM, seed=3), workers=workers).epoch(0, batches_of(0)),
        iter(EvalLoader(dataset, shorter_side=100, longer_side=150, batch_size=2, workers=workers)),
    ):
        with pytest.raises(UserError) as caught:
            list(batches)
        assert str(caught.value) == f"{lost}: there is no such image file; restore it or correct the path"


def test_a_loader_is_gone_at_once_after_a_lost_image(dataset: DetectionDataset) -> None:
    """Not when the garbage collector comes round, for then its workers take 5 s to end."""
    dataset.images[4].file.unlink()

    def fail() -> weakref.ref[TrainLoader]:
        loader = TrainLoader(TrainData(dataset, TRANSFORM, seed=3), workers=1)
        with contextlib.suppress(UserError):
            list(loader.epoch(0, batches_of(0)))
        return weakref.ref(loader)

    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_exchanged_for_one_of_another_size_is_refused(dataset: DetectionDataset, workers: int) -> None:
    Image.new("RGB", (30, 20)).save(dataset.images[1].file)
    with pytest.raises(UserError, match=r"1\.png: the image is 30 x 20 pixels but its record says 285 x 230"):
        list(TrainLoader(TrainData(dataset, TRANSFORM, seed=3), workers=workers).epoch(0, batches_of(0)))


def test_other_errors_are_not_swallowed(dataset: DetectionDataset) -> None:
    with pytest.raises(IndexError):
        list(TrainLoader(TrainData(dataset, TRANSFORM, seed=3), workers=0).epoch(0, [[0, N]]))


def test_the_global_random_state_is_left_alone(dataset: DetectionDataset) -> None:
    loader = TrainLoader(TrainData(dataset, TRANSFORM, seed=3), workers=0)
    before = torch.get_rng_state()
    list(loader.epoch(0, batches_of(0)))
    list(EvalLoader(dataset, shorter_side=100, longer_side=150, batch_size=2, workers=0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_a_batch_from_a_worker_holds_at_most_one_open_file(dataset: DetectionDataset) -> None:
    loader = TrainLoader(TrainData(dataset, TRANSFORM, seed=3), workers=1)
    list(loader.epoch(0, batches_of(0)))
    before = len(os.listdir("/proc/self/fd"))
    held = list(loader.epoch(0, batches_of(0) * 5))
    assert len(os.listdir("/proc/self/fd")) - before <= len(held) == 20


def test_what_travels_is_pinned_as_the_batch_it_holds(
    dataset: DetectionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: only that torch's pinning thread gets from the parcel to ``Batch.pin_memory``."""
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: ("pinned", batch))
    batch = next(TrainLoader(TrainData(dataset, TRANSFORM, seed=3), workers=0).epoch(0, batches_of(0)))
    word, pinned = torch_pin_memory(_Parcel.pack(batch))
    assert word == "pinned"
    assert content(pinned) == content(batch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is pinned for a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_pinned_memory(dataset: DetectionDataset, workers: int) -> None:
    data = TrainData(dataset, TRANSFORM, seed=3)
    plain, pinned = (
        list(TrainLoader(data, workers=workers, pin_memory=pin).epoch(0, batches_of(0))) for pin in (False, True)
    )
    assert [content(b) for b in plain] == [content(b) for b in pinned]
    for batch in pinned:
        assert all(getattr(batch, name).is_pinned() for name in ("images", "sizes", "boxes", "labels", "crowd"))


KILLED = """
import pickle, sys, time
if __name__ == "__main__":
    from mimicdet.data.loader import EvalLoader
    with open(sys.argv[1], "rb") as file:
        dataset = pickle.load(file)
    batches = iter(EvalLoader(dataset, shorter_side=50, longer_side=90, batch_size=1, workers=2))
    next(batches)
    print("running", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_workers_end_with_a_killed_training(dataset: DetectionDataset, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(KILLED)
    (tmp_path / "dataset.pkl").write_bytes(pickle.dumps(dataset))
    mark = f"MIMICDET_TEST={tmp_path}"  # the environment is inherited by whatever the training starts
    name, value = mark.split("=")
    training = subprocess.Popen(
        [sys.executable, tmp_path / "main.py", tmp_path / "dataset.pkl"],
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def alive() -> list[int]:
        pids = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    pids.append(int(folder.name))
            except OSError:
                continue  # it ended meanwhile, or is not ours to read
        return pids

    try:
        assert training.stdout is not None
        assert training.stdout.readline() == "running\n"
        assert len(alive()) >= 4  # training, fork server, two workers
        training.kill()
        training.wait()
        deadline = time.monotonic() + 20
        while alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert alive() == []
    finally:
        for pid in alive():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills a process")
def test_a_killed_worker_is_a_sentence(dataset: DetectionDataset) -> None:
    loader = EvalLoader(dataset, shorter_side=50, longer_side=90, batch_size=1, workers=1)
    batches = iter(loader)
    next(batches)
    items = batches.gi_frame.f_locals["items"]  # type: ignore[attr-defined]
    os.kill(items._workers[0].pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"has ended before its time.*lower data\.workers"):
        list(batches)
    assert time.monotonic() - began < 10


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_share_the_budget(dataset: DetectionDataset) -> None:
    made = EvalLoader(dataset, shorter_side=50, longer_side=90, batch_size=1, workers=4)._loader
    assert made is not None
    begin = made.worker_init_fn
    assert begin.keywords["pixels"] == decode.MAX_PIXELS // 4
