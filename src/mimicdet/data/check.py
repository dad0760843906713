"""Reads a data set as training would, and reports every fault by kind, with examples: `mimicdet check`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicdet.arguments import checked
from mimicdet.data.dataset import Category, DetectionDataset, fingerprint
from mimicdet.data.faults import FaultKind, FaultLog
from mimicdet.data.plausible import odd_boxes
from mimicdet.data.split_names import disjoint_splits, resolve_split
from mimicdet.data.splits import compare_splits, find_splits, log_left_out, raise_errors, read_split
from mimicdet.errors import message, one_line


@dataclass(frozen=True)
class CheckReport:
    """A report lists what `check_dataset` found. A data set is fit for training when ``errors`` is empty."""

    root: Path
    format: str
    logs: Mapping[str, FaultLog]  # by split
    between: FaultLog  # faults that only show when splits are compared
    datasets: Mapping[str, DetectionDataset]  # by split, clean; splits that cannot be read at all are missing

    @property
    def errors(self) -> dict[str, int]:
        """Counts the faults that stop training, over all splits, by the kind's key."""
        return self._counts(stops=True)

    @property
    def warnings(self) -> dict[str, int]:
        """Counts the faults that were mended or do no harm, likewise."""
        return self._counts(stops=False)

    @property
    def notes(self) -> dict[str, int]:
        """Counts what the data set holds and is not used, likewise. It is for information."""
        return self._counts(stops=False, note=True)

    @property
    def ok(self) -> bool:
        """Says whether the data set is fit for training."""
        return not self.errors

    def raise_errors(self) -> None:
        """Raises the first error as a UserError that also says how many more there are."""
        raise_errors(self._total(), self.root)

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as plain dictionaries, lists, numbers and text, ready for `json.dump`."""
        report = {"path": str(self.root), "format": self.format, "ok": self.ok}
        report |= {"errors": self.errors, "warnings": self.warnings, "notes": self.notes}
        report["between_splits"] = _faults_json(self.between)
        summaries = {split: _summary(self.datasets.get(split)) for split in self.logs}
        splits = {split: summaries[split] | {"faults": _faults_json(log)} for split, log in self.logs.items()}
        return report | {"splits": splits}

    def lines(self) -> list[str]:
        """Returns all of it as lines for people to read."""
        names = {name: None for dataset in self.datasets.values() for name in dataset.class_names}
        titles = {name: one_line(name) for name in names}
        count = f"{len(names)} {'class' if len(names) == 1 else 'classes'}"
        lines = [f"{message(self.root)}: {self.format.upper()}, {count}"]
        summaries = {split: _summary(self.datasets.get(split)) for split in self.logs}
        width = max(map(len, ("without objects", *titles.values())))
        columns = [max(len(one_line(split)), 8) for split in summaries]

        def row(title: str, cells: Sequence[Any]) -> str:
            return f"  {title:<{width}}  " + "  ".join(f"{c!s:>{size}}" for c, size in zip(cells, columns, strict=True))

        lines.append(row("", list(map(one_line, summaries))))
        keys = {"images": "images", "without objects": "empty_images", "boxes": "objects", "crowd": "crowd"}
        lines += [row(title, [s.get(key, "-") for s in summaries.values()]) for title, key in keys.items()]
        counts = [s.get("classes", {}) for s in summaries.values()]
        lines += [row(title, [found.get(name, "-") for found in counts]) for name, title in titles.items()]
        total = self._total()
        for title, found in (("errors", self.errors), ("warnings", self.warnings), ("notes", self.notes)):
            if not found and title == "notes":
                continue
            lines.append(f"{title}:" if found else f"{title}: none")
            for kind in (kind for kind in FaultKind if kind.key in found):
                examples = total.examples[kind]
                lines.append(f"  {total.counts[kind]} {kind.title} ({kind.key})")
                lines += [f"    {fault.sentence()}" for fault in examples]
                if total.counts[kind] > len(examples) and not kind.note:
                    lines.append(f"    and {total.counts[kind] - len(examples)} more")
        return lines + [f"fingerprint of {one_line(name)}: {fingerprint(one)}" for name, one in self.datasets.items()]

    def _total(self) -> FaultLog:
        total = FaultLog()
        for log in (*self.logs.values(), self.between):
            total.merge(log)
        return total

    def _counts(self, *, stops: bool, note: bool = False) -> dict[str, int]:
        counts = self._total().counts
        return {k.key: counts[k] for k in FaultKind if (k.stops, k.note) == (stops, note) and counts[k]}


@checked()
def check_dataset(
    path: str | Path,
    *,
    splits: Sequence[str] | None = None,
    max_faulty_boxes: float = 0.05,
    voc_one_based: bool = False,
    outside: bool = False,
    verify_images: bool = True,
    progress: bool = True,
) -> CheckReport:
    """Reads the splits of a data set with the same code as `load_dataset`, and collects every fault.

    The categories of each split are compared with those of the first, which is train where there is one. The report's
    ``datasets`` are what `load_dataset` would return, so that training need not read them twice.
    UserError: there is no data set at ``path``, or no such split; all other faults are reported.

    Args:
        path, max_faulty_boxes, voc_one_based, outside: see `load_dataset`.
        splits: names of the splits to read; all of them by default.
        verify_images: decode every image in a pool of threads, which finds truncated files; else only headers are read.
    """
    sources = find_splits(path)
    names = list(disjoint_splits(sources.splits))
    if splits is not None:
        names = [name for split in splits for name in resolve_split(split, sources.splits, sources.origin)]
    how = {"voc_one_based": voc_one_based, "outside": outside, "decode": verify_images, "progress": progress}
    found = {name: read_split(sources, name, max_faulty_boxes=max_faulty_boxes, **how) for name in dict.fromkeys(names)}
    datasets = {name: dataset for name, (dataset, _) in found.items() if dataset is not None}
    between, parts = FaultLog(), list(datasets.values())
    if parts:
        _check_categories(parts[0], sources.splits[parts[0].split].annotations, between)
    for dataset in parts:
        _check_objects(dataset, sources.splits[dataset.split].annotations, between)
    compare_splits(parts, sources, between)
    if not any(log.count_errors() for _, log in found.values()):  # else some are listed and could not be read
        log_left_out(sources, parts, between)
    return CheckReport(sources.root, sources.format, {n: log for n, (_, log) in found.items()}, between, datasets)


def _check_objects(dataset: DetectionDataset, file: Path, log: FaultLog) -> None:
    crowd = sum(int(image.crowd.sum()) for image in dataset.images)
    item = f"split {dataset.split}"
    if dataset.images and all(image.crowd.all() for image in dataset.images):
        problem = "none of its images has an object, so that nothing is learned from it and no AP is defined on it"
        if crowd:
            problem += f"; its {crowd} regions are marked as crowd or difficult, which are passed over"
        log.add(FaultKind.NO_OBJECTS, file, item, problem)
    elif (odd := odd_boxes(dataset)) is not None:
        log.add(FaultKind.ODD_BOXES, file, item, odd)


def _check_categories(dataset: DetectionDataset, file: Path, log: FaultLog) -> None:
    used = {label for image in dataset.images for label in image.labels.tolist()}
    if dataset.images and not used:
        return  # said of any split
    spellings: dict[str, Category] = {}
    for label, category in enumerate(dataset.categories):
        item = f"category {category.name!r}"
        if label not in used:
            log.add(FaultKind.UNUSED_CATEGORY, file, item, f"has no objects in split {dataset.split}")
        spelling = "".join(filter(str.isalnum, category.name.casefold()))
        if spelling and spelling in spellings:
            problem = f"looks like {spellings[spelling].name!r}; merge the two if they mean the same"
            log.add(FaultKind.SIMILAR_CATEGORIES, file, item, problem)
        spellings.setdefault(spelling, category)


def _summary(dataset: DetectionDataset | None) -> dict[str, Any]:
    if dataset is None:
        return {}
    counts = Counter(label for image in dataset.images for label in image.labels[~image.crowd].tolist())
    empty = sum(not len(image.labels) for image in dataset.images)
    crowd = sum(int(image.crowd.sum()) for image in dataset.images)
    classes = {name: counts[label] for label, name in enumerate(dataset.class_names)}
    numbers = {"images": len(dataset.images), "empty_images": empty, "objects": counts.total(), "crowd": crowd}
    return numbers | {"classes": classes, "fingerprint": fingerprint(dataset)}


def _faults_json(log: FaultLog) -> dict[str, Any]:
    faults = {}
    for kind in (kind for kind in FaultKind if log.counts[kind]):
        about = {"count": log.counts[kind], "stops_training": kind.stops, "meaning": kind.title}
        examples = [{"file": str(f.file), "item": f.item, "problem": f.problem} for f in log.examples[kind]]
        faults[kind.key] = about | {"examples": examples}
    return faults
