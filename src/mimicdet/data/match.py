"""A data set in the class order of a model that was trained on another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mimicdet.data.categories import nearest
from mimicdet.data.dataset import Category, DetectionDataset
from mimicdet.errors import UserError


def match_classes(dataset: DetectionDataset, categories: Sequence[Category]) -> DetectionDataset:
    """The data set with its classes in the order of ``categories`` (a model's), matched by name.

    Ids stay the data set's own, which need not be the model's: the same set in COCO and YOLO form numbers its classes
    differently. A class that the data set does not have (a small VOC split may lack a rare one) is added, without
    objects and with an unused id.

    Raises:
        UserError: the data set has a class that the model does not know.
    """
    own = {category.name: category for category in dataset.categories}
    names = [category.name for category in categories]
    for name in own:
        if name not in names:
            raise UserError(
                f"{dataset.root}: the model does not know the class '{name}'{nearest(name, names)}; "
                f"it knows {', '.join(names)}"
            )
    free = max((category.id for category in dataset.categories), default=0) + 1
    matched = []
    for name in names:
        if name in own:
            matched.append(own[name])
        else:
            matched.append(Category(id=free, name=name))
            free += 1
    position = {name: index for index, name in enumerate(names)}
    new_label = np.array([position[category.name] for category in dataset.categories], dtype=np.int64)
    images = tuple(dataclasses.replace(record, labels=new_label[record.labels]) for record in dataset.images)
    return dataclasses.replace(dataset, categories=tuple(matched), images=images)
