"""Keeps what annotations name inside the data set, so that a copied data set cannot have other files read.

The data set is the folder that the user names, or the folder of the file that the user names with the folders that
this file's layout has (COCO: `annotations/` beside the images; YOLO: what the YAML file says). Links that lie in the
folder are followed, for that is how images in another place are given; ``..`` in annotations is not taken through them.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mimicdet.data.faults import FaultKind, FaultLog
from mimicdet.data.raw import RawSplit, Source, SplitSources

_WAY_OUT = "move it into the data set, or allow files outside by --outside (from Python: outside=True)"


def log_outside_folders(sources: SplitSources, source: Source, log: FaultLog) -> None:
    """Logs the split's folders and lists of images that lie outside the data set, before anything in them is read."""
    places = _places(sources, source)
    for entry in _outside(source.images, places):
        problem = f"{entry} lies outside the data set {places[0]}; {_WAY_OUT}, or name the file {source.annotations}"
        log.add(FaultKind.OUTSIDE_FILE, source.annotations, f"split {source.split}", problem)


def log_outside_files(sources: SplitSources, raw: RawSplit, log: FaultLog) -> None:
    """Logs the images, and files of VOC annotations, that lie outside the data set."""
    places, source = _places(sources, raw.source), raw.source
    outside = set(_outside((image.file for image in raw.images), places))
    if source.format == "voc":  # its lists name files of annotations too; YOLO's labels follow from the images
        outside |= set(_outside((image.annotations for image in raw.images), places))
    for image in raw.images if outside else ():
        for file in [file for file in (image.file, image.annotations) if file in outside][:1]:
            named_in = source.listing or (source if source.format == "yolo" else image).annotations
            problem = f"{file} lies outside the data set {places[0]}; {_WAY_OUT}"
            log.add(FaultKind.OUTSIDE_FILE, named_in, image.item, problem)


def _places(sources: SplitSources, source: Source) -> tuple[Path, ...]:
    """Returns the folders that make up the data set, none of them named by annotations."""
    given = sources.root if sources.root.is_dir() else sources.root.parent
    if source.format == "yolo" and given == sources.root:  # all other folders are named by the YAML file
        return (given,)
    return (given, source.root, *(entry if entry.is_dir() else entry.parent for entry in source.images))


def _outside(files: Iterable[Path], places: Sequence[Path]) -> list[Path]:
    """Returns the files that lie in none of the places, neither as they are named nor by where links lead."""
    named = tuple(os.path.join(os.path.abspath(place), "") for place in places)
    found = [file for file in files if not f"{os.path.abspath(file)}{os.sep}".startswith(named)]
    real = tuple(os.path.join(os.path.realpath(place), "") for place in places) if found else ()
    return [file for file in found if not f"{os.path.realpath(file)}{os.sep}".startswith(real)]
