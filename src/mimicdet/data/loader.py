"""Reads batches for training and evaluation in worker processes.

What a batch holds is a function of the data set, the settings, the seed and the batch's (epoch, indices) alone:
the number of workers, 0 included, changes no byte of it.
"""

import multiprocessing
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mimicdet.data.batch import Batch, Sample, collate
from mimicdet.data.dataset import DetectionDataset, ImageRecord
from mimicdet.data.decode import MAX_PIXELS, REDUCTIONS, read_reduced, share_budget
from mimicdet.data.order import image_seed, sampling_seed
from mimicdet.data.photograph import Photograph
from mimicdet.data.tiles import Tiles, Window
from mimicdet.data.transform import TrainTransform, resize_for_inference
from mimicdet.errors import UserError


class _Records:
    """The data set's records, kept as a few flat arrays: item index -> ImageRecord.

    Every worker gets its own copy of the records. As objects, COCO's 118,000 images take 2 s to send, 2 s to
    receive and 150 MB in each worker; as arrays a tenth of that.
    """

    def __init__(self, images: Sequence[ImageRecord]) -> None:
        self.ids = [record.id for record in images]
        self.files = [str(record.file) for record in images]
        self.sizes = [(record.height, record.width) for record in images]
        self.starts = np.cumsum([0, *(len(record.labels) for record in images)])
        self.boxes = np.concatenate([np.zeros((0, 4)), *(record.boxes for record in images)])
        self.labels = np.concatenate([np.zeros(0, np.int64), *(record.labels for record in images)])
        self.crowd = np.concatenate([np.zeros(0, np.bool_), *(record.crowd for record in images)])
        self.areas = np.concatenate([np.zeros(0), *(record.areas for record in images)])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> ImageRecord:
        own = slice(self.starts[index], self.starts[index + 1])
        objects = self.boxes[own], self.labels[own], self.crowd[own], self.areas[own]
        return ImageRecord(self.ids[index], Path(self.files[index]), *self.sizes[index], *objects)


def _read(record: ImageRecord, scale: float = 1.0) -> tuple[np.ndarray, int]:
    """Reads a record's image, a JPEG file at the smallest fraction of its size that is ``scale`` or more.

    Returns the pixels, and by what its sides are divided; UserError if it is not of the size that its boxes belong to.
    """
    reduction = next((r for r in REDUCTIONS if r * scale <= 1), 1)
    image, size, reduction = read_reduced(record.file, reduction)
    _require_size(record, size)
    return image, reduction


def _require_size(record: ImageRecord, size: tuple[int, int]) -> None:
    if size != record.size:
        height, width = size
        problem = f"the image is {width} x {height} pixels but its record says {record.width} x {record.height}"
        way_out = "correct the record (`mimicdet check` lists them all), and change no files during a run"
        raise UserError(f"{record.file}: {problem}; {way_out}")


class TrainData(Dataset[Sample]):
    """Augments images of a data set: item (epoch, index) -> Sample, a pure function of the two and the run's seed.

    Where ``reduce_jpeg``, JPEG files that are much larger than the network reads them are not decoded in full. An item
    raises UserError when its image file cannot be read or has another size than its record says.
    """

    def __init__(
        self, dataset: DetectionDataset, transform: TrainTransform, seed: int, *, reduce_jpeg: bool = True
    ) -> None:
        self.records = _Records(dataset.images)
        self.transform, self.seed, self.reduce_jpeg = transform, seed, reduce_jpeg

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        record = self.records[index]
        seed = image_seed(self.seed, epoch, index)
        plan = self.transform.plan(record.size, torch.Generator().manual_seed(seed))
        pixels, reduction = _read(record, plan.scale if self.reduce_jpeg else 1.0)
        transformed = plan.apply(pixels, record.boxes, record.labels, record.crowd, reduction=reduction)
        return Sample(*transformed, record.id, str(record.file), record.size, sampling_seed(seed))


class EvalData(Dataset[Sample]):
    """Reads images at inference size, no targets: item (index, window or None) -> Sample; UserError as `TrainData`."""

    def __init__(self, dataset: DetectionDataset, *, shorter_side: int, longer_side: int) -> None:
        self.records = _Records(dataset.images)
        self.sides = shorter_side, longer_side
        self._last: tuple[int, Photograph] | None = None  # the tiles of an image come one after the other

    def __getitem__(self, key: tuple[int, Window | None]) -> Sample:
        index, window = key
        record = self.records[index]
        if window is None:
            pixels = _read(record)[0]
        else:
            if self._last is None or self._last[0] != index:
                self._last = None  # before the next is read
                self._last = index, Photograph(record.file)
                _require_size(record, self._last[1].size)
            pixels = self._last[1].window(window)
        image, (height, width, _) = resize_for_inference(pixels, *self.sides), pixels.shape
        return Sample.without_targets(image, record.id, str(record.file), (height, width))


class TrainLoader:
    """Yields training batches, epoch after epoch, from worker processes that live as long as the loader.

    The sides of the canvas are multiples of ``divisor``; ``pin_memory`` is for copies to a GPU.

    Workers start as fresh interpreters (see ``_start_method``): a script that trains without the ``mimicdet``
    command needs Python's usual ``if __name__ == "__main__":`` around it, or ``workers=0``.
    """

    def __init__(self, data: TrainData, *, workers: int, pin_memory: bool = False, divisor: int = 32) -> None:
        self._keys: list[list[tuple[int, int]]] = []  # of each batch of the epoch
        self._loader = _data_loader(_BatchData(data, divisor), self._keys, workers, pin_memory, persistent=workers > 0)

    def epoch(self, epoch: int, batches: Sequence[Sequence[int]], *, start_batch: int = 0) -> Iterator[Batch]:
        """Yields batches of indices ``batches[start_batch:]``, one epoch at a time; UserError: an unreadable image."""
        self._keys[:] = [[(epoch, index) for index in batch] for batch in batches[start_batch:]]
        return _opened(iter(self._loader))


class EvalLoader:
    """Yields batches of the images ``rank, rank + world_size, ...``, or of their tiles, at inference size, no targets.

    Every image comes once, over all ranks; ranks may differ by one image, so nothing that waits for the other
    ranks belongs inside the loop. Iteration raises UserError where an image file cannot be read.

    Args:
        shorter_side, longer_side: see ``mimicdet.data.transform.resized_size``.
        tiles: cut each image into tiles, of which ``batch_size`` make a batch; None: whole images.
        workers, pin_memory, divisor: see `TrainLoader`.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        *,
        shorter_side: int,
        longer_side: int,
        batch_size: int,
        workers: int,
        tiles: Tiles | None = None,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        divisor: int = 32,
    ) -> None:
        crops: list[tuple[int, Window | None]] = []
        for index in range(rank, len(dataset), world_size):
            windows: Sequence[Window | None] = tiles.windows(*dataset.images[index].size) if tiles else [None]
            crops += [(index, window) for window in windows]
        self._keys = [crops[at : at + batch_size] for at in range(0, len(crops), batch_size)]
        self._data = _BatchData(EvalData(dataset, shorter_side=shorter_side, longer_side=longer_side), divisor)
        self._loader = _data_loader(self._data, self._keys, workers, pin_memory) if workers else None

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Batch]:
        return self._read_ahead() if self._loader is None else _opened(iter(self._loader))

    def _read_ahead(self) -> Iterator[Batch]:
        """Without workers: the next batches are read in a thread while the detector works."""
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read") as pool:
            try:
                for keys in self._keys:
                    waiting.append(pool.submit(self._data.collated, keys))
                    if len(waiting) > 2:  # so many are read before they are asked for
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)  # also when the reader stops early


@dataclass(frozen=True)
class _Parcel:
    """A batch on its way between processes, in which only the images travel as a tensor.

    Each tensor sent costs an open file (shared memory) in both processes and a round trip between them: six for each
    batch in flight, times workers, times ranks, are "too many open files". Numpy arrays cost a few bytes in the pipe.
    """

    fields: dict[str, Any]

    @staticmethod
    def pack(batch: Batch) -> "_Parcel":
        arrays = {name: value.numpy() for name, value in vars(batch).items() if isinstance(value, Tensor)}
        return _Parcel(vars(batch) | arrays | {"images": batch.images})

    def open(self) -> Batch:
        arrays = {name: value for name, value in self.fields.items() if isinstance(value, np.ndarray)}
        return Batch(**(self.fields | {name: torch.from_numpy(value) for name, value in arrays.items()}))

    def pin_memory(self) -> Batch:
        """Opens and pins the batch; the data loader's pinning thread calls this."""
        return self.open().pin_memory()


class _BatchData(Dataset[Any]):
    """A data set of batches: item [key, ...] -> _Parcel.

    A UserError is handed over as a value: from another process, the traceback would become the exception's message.
    """

    def __init__(self, data: Dataset[Sample], divisor: int) -> None:
        self.data, self.divisor = data, divisor

    def collated(self, keys: Sequence[Any]) -> Batch:
        return collate([self.data[key] for key in keys], divisor=self.divisor)

    def __getitem__(self, keys: Sequence[Any]) -> _Parcel | UserError:
        # One thread, in the main process (0 workers) as in a worker: more would fight over the cores, and a
        # mean over an image's pixels, as for contrast, rounds differently when threads share the sum.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return _Parcel.pack(self.collated(keys))
        except UserError as error:
            return error
        finally:
            torch.set_num_threads(threads)


def _opened(items: Iterator[Any]) -> Iterator[Batch]:
    try:
        yield from map(_open, items)
    except (RuntimeError, OSError, EOFError) as error:
        # The data loader has no error of its own for it, and what a dead worker has sent cannot be fetched from it.
        # An error in a living worker names the worker.
        died = re.match(r"DataLoader worker \(pid|Pin memory thread exited", str(error)) or not isinstance(
            error, RuntimeError
        )
        if not died or "in DataLoader worker process" in str(error):
            raise
        problem = "a process that reads images has ended before its time, killed perhaps for lack of memory"
        raise UserError(f"{problem}; lower data.workers, and continue a training with --resume") from None


def _open(item: _Parcel | Batch | UserError) -> Batch:
    if isinstance(item, UserError):
        try:
            raise item
        finally:
            # Else exception and frame hold each other, and with them the loader: its workers, ended by the
            # garbage collector in whatever order, take 5 s for it.
            del item
    return item.open() if isinstance(item, _Parcel) else item


def _data_loader(data: _BatchData, keys: list[Any], workers: int, pin: bool, persistent: bool = False) -> DataLoader:
    how: dict[str, Any] = {"num_workers": workers, "persistent_workers": persistent, "pin_memory": pin}
    if workers:
        context = _start_method()
        begin = partial(_begin, pixels=MAX_PIXELS // workers, alone=context.Lock())
        how |= {"multiprocessing_context": context, "worker_init_fn": begin}
    how |= {"sampler": keys, "batch_size": None}  # the keys are read anew by every epoch
    return DataLoader(data, generator=torch.Generator(), **how)  # else every epoch would draw from the global one


_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _begin(worker: int, *, pixels: int, alone: AbstractContextManager) -> None:
    share_budget(pixels, alone)
    _depend_on_main_process_alone()


def _depend_on_main_process_alone() -> None:
    """Ends this worker when the training process is killed, and not before.

    Ctrl-C and torchrun send their signal to all processes of a group: training wants to finish its step and write
    a checkpoint then, for which it needs the batches that are under way. So a worker is a group of its own, and the
    fork server, which it does not outlive, is deaf to them (see ``_start_method``).
    The data loader's own watchdog looks at the parent process: here the fork server, which lives as long as a worker.
    """
    if os.name == "posix":
        os.setpgrp()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)
    main = multiprocessing.parent_process()
    assert main is not None, "a worker has a parent"

    def wait_and_exit() -> None:
        main.join()
        os._exit(1)

    threading.Thread(target=wait_and_exit, name="exit with main process", daemon=True).start()


def _start_method() -> BaseContext:
    """Returns the way workers start: forked from a clean server process, or spawned where there is none (Windows).

    Not forked from this process, as Linux does by default: by then it runs threads (OpenMP, CUDA, progress
    bars, a previous loader's), and a lock that one of them holds is never released in the child. The server
    imports torch once (3 s on 2 cores, in the background from here on), then workers start in 0.02 s.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "mimicdet.data.loader"])
    # A process starts with the signals blocked that its parent blocks, and so do its children
    resource_tracker.ensure_running()  # before: starting it unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context
