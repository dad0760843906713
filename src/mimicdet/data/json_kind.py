"""Tells JSON files that can be COCO annotations from others, such as results and reports, without parsing them."""

import mmap
import re
from pathlib import Path

_LIST_OF_OBJECTS = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*[{\]]")
_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{\s*[\"}]")
_COCO_LIST = re.compile(rb'"(?:images|annotations|categories)"\s*:\s*\[')


def may_be_annotations(file: Path) -> bool:
    """Returns False for a whole JSON list or object that has none of COCO's lists, True for every other file.

    So a damaged file of annotations counts as one, and whoever reads it says what is wrong. It is as quick as looking
    for a word, and COCO's lists begin near the top of a file.
    """
    try:
        with open(file, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            end = content[-64:].rstrip()[-1:]
            if _LIST_OF_OBJECTS.match(content):
                return end != b"]"
            return not _OBJECT.match(content) or end != b"}" or _COCO_LIST.search(content) is not None
    except (OSError, ValueError):  # it cannot be read, or is empty
        return True


def is_input(file: Path) -> bool:
    """Says whether a file in a data set's folder is read, as far as that can be told: all but JSON without annotations.

    Reports and results that a command wrote there are such JSON, and may be written anew.
    """
    return file.suffix.lower() in (".yaml", ".yml") or may_be_annotations(file)
