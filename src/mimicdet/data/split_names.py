"""Names splits: told from file names, asked for by any of their usual names, pooled with a plus."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from mimicdet.errors import UserError, nearest

_SAME = (("train", "training"), ("val", "valid", "validation"), ("test", "testing", "test-dev"))
_ORDER = ("train", "training", "val", "valid", "validation", "trainval", "test", "testing", "test-dev")
_AFFIX = "annotations?|instances|coco|labels|boxes|bbox"
_NAME = re.compile(
    rf"(?:_*(?:{_AFFIX})[._-]*)*({'|'.join(_ORDER)})[._-]?((?:19|20)[0-9]{{2}})?(?:[._-]+(?:{_AFFIX}))*", re.IGNORECASE
)

T = TypeVar("T")


def split_word(stem: str) -> tuple[str, str] | None:
    """Returns the split that a file or folder name speaks of, and its year: instances_val2017 -> val, 2017."""
    match = _NAME.fullmatch(stem)
    return (match[1].lower(), match[2] or "") if match else None


def name_splits(found: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Names splits by the names of their files; those that speak of no split are left out.

    ``found`` holds (stem, anything). Where several speak of the same split (train2014, train2017), the year
    is part of the name; UserError if that does not tell them apart either.
    """
    spoken = [(*words, stem, thing) for stem, thing in found if (words := split_word(stem))]
    members = Counter(word for word, *_ in spoken)
    named: dict[str, T] = {}
    for word, year, stem, thing in spoken:
        name = word + year if members[word] > 1 else word
        if name in named:
            raise UserError(
                f"{stem}: several files speak of the split {name}; name one of them as the data set instead"
            )
        named[name] = thing
    return {n: named[n] for n in sorted(named, key=lambda n: (_ORDER.index(n) if n in _ORDER else len(_ORDER), n))}


def resolve_split(asked: str, available: Iterable[str], root: Path) -> tuple[str, ...]:
    """Returns the available splits that ``asked`` means: its own name first, then the usual others (val: valid, ...).

    ``asked`` may pool several with a plus. UserError: there is none (it names the nearest), or one is named twice.
    """
    names = tuple(available)
    chosen: list[str] = []
    for word in map(str.strip, asked.split("+")):
        spellings = (word, *next((same for same in _SAME if word in same), ()))
        name = next((spelling for spelling in spellings if spelling in names), None)
        if name is None:
            near = nearest(word, names)
            hint = f"did you mean {near!r}?" if near else f"it has {', '.join(names)}"
            raise UserError(f"{root}: there is no split {word!r}; {hint}")
        if name in chosen:
            raise UserError(f"{root}: split {name!r} is named twice in {asked!r}; name each split once")
        chosen.append(name)
    return tuple(chosen)


def validation_split(available: Iterable[str]) -> str | None:
    """Returns the first split that is there to choose the best weights by, None where there is none."""
    return next((name for name in available if name in _SAME[1]), None)


def disjoint_splits(available: Iterable[str]) -> tuple[str, ...]:
    """Returns the splits without VOC's trainval where it only repeats train and val."""
    names = tuple(available)
    parts = all(any(same in names for same in group) for group in _SAME[:2])
    return tuple(name for name in names if not (parts and name == "trainval"))


def standard_name(split: str) -> str | None:
    """Returns the name that all tools know, with its year (validation -> val); None if it speaks of no split."""
    word, year = split_word(split) or ("", "")
    return next((same[0] for same in _SAME if word in same), word) + year or None
