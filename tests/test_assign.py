"""Assignment and sampling: against literal per-anchor and per-box versions in exact integers.

Corners lie on quarter pixels, so that every comparison the code makes in float32 has an exact counterpart; boxes below
are four integers in quarters.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mimicdet.assign import (
    IGNORED,
    NO_OBJECT,
    Proposals,
    make_proposals,
    match_anchors,
    match_overlapping,
    match_proposals,
    random_keys,
    sample_balanced,
    sample_some,
)
from mimicdet.models.anchors import square_anchors
from mimicdet.models.detector import Places

Box = tuple[int, int, int, int]
Objects = list[tuple[Box, int, bool]]  # box in quarter pixels, label, crowd
STRIDES = [8, 16, 32, 64, 128]
K = 4


def places_of(height: int, width: int) -> Places:
    shapes = [(-(-height // s), -(-width // s)) for s in STRIDES]
    places: Places = square_anchors((3, 4, 5, 6, 7), side_in_cells=4)(shapes)
    return places


@st.composite
def objects_in(draw: st.DrawFn, height: int, width: int, most: int = 5) -> Objects:
    found: Objects = []
    for _ in range(draw(st.integers(0, most))):
        longest = draw(st.sampled_from([60, 260, 1100, 2600]))
        w = draw(st.integers(1, min(longest, 4 * width)))
        h = draw(st.integers(1, min(longest, 4 * height)))
        x, y = draw(st.integers(0, 4 * width - w)), draw(st.integers(0, 4 * height - h))
        crowd = draw(st.integers(0, 5)) == 0
        found.append(((x, y, x + w, y + h), draw(st.integers(0, K - 1)), crowd))
    return found


def padded(batch: list[Objects], extra: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Targets as a batch holds them; padding rows are large boxes here, to be seen if they are ever used."""
    m = max(map(len, batch)) + extra
    boxes = torch.tensor([0.0, 0.0, 640.0, 640.0]).repeat(len(batch), m, 1)
    labels = torch.full((len(batch), m), -1)
    crowd = torch.zeros(len(batch), m, dtype=torch.bool)
    for i, objects in enumerate(batch):
        for j, (box, label, is_crowd) in enumerate(objects):
            boxes[i, j], labels[i, j], crowd[i, j] = torch.tensor(box) / 4, label, is_crowd
    return boxes, labels, crowd


def area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


# --- refinement anchors ----------------------------------------------------------------------------------------------


def literal_match(height: int, width: int, size: tuple[int, int], objects: Objects, tenths: int, ensure: bool):
    """Anchor by anchor; ``tenths`` of a box's sides are its central rectangle."""
    anchors = [
        (level, (4 * x + 2) * s, (4 * y + 2) * s, y * s < size[0] and x * s < size[1])
        for level, s in enumerate(STRIDES)
        for y in range(-(-height // s))
        for x in range(-(-width // s))
    ]
    positives: list[set[int]] = []
    for box, _, crowd in objects:
        w, h = box[2] - box[0], box[3] - box[1]
        level = max([0, *(l for l in range(5) if w * h >= (16 * STRIDES[l]) ** 2)])
        own = [
            (i, abs(2 * ax - box[0] - box[2]), abs(2 * ay - box[1] - box[3]))
            for i, (l, ax, ay, valid) in enumerate(anchors)
            if l == level and valid
        ]
        central = {i for i, dx, dy in own if 10 * dx <= tenths * w and 10 * dy <= tenths * h}
        inside = [(dx * dx + dy * dy, -i) for i, dx, dy in own if dx <= w and dy <= h]
        if ensure and not central and inside:
            central = {-min(inside)[1]}  # of equally near ones the lower right, where the object's centre belongs
        positives.append(set() if crowd else central)
    sized = sorted(range(len(objects)), key=lambda j: (area(objects[j][0]), j))
    return [next((j for j in sized if i in positives[j]), NO_OBJECT) for i in range(len(anchors))]


@settings(max_examples=80, deadline=None)
@given(data=st.data(), ensure=st.booleans(), tenths=st.sampled_from([3, 5, 10]))
def test_anchors_equal_the_literal_version(data: st.DataObject, ensure: bool, tenths: int):
    height, width = data.draw(st.sampled_from([(64, 96), (160, 224), (320, 544)]))
    sizes = data.draw(st.lists(st.tuples(st.integers(8, height), st.integers(8, width)), min_size=1, max_size=2))
    batch = [data.draw(objects_in(*size)) for size in sizes]
    places = places_of(height, width)
    match = match_anchors(
        places,
        places.valid(torch.tensor(sizes)),
        *padded(batch, extra=data.draw(st.integers(0, 2))),
        center_fraction=tenths / 10,
        ensure_match=ensure,
    )
    for row, size, objects in zip(match.tolist(), sizes, batch, strict=True):
        assert row == literal_match(height, width, size, objects, tenths, ensure)


def match_one(box: list[float], *, ensure: bool, canvas: int = 1280) -> tuple[Places, Tensor]:
    places = places_of(canvas, canvas)
    match = match_anchors(
        places,
        torch.ones(1, len(places.level), dtype=torch.bool),
        torch.tensor([[box]]),
        torch.zeros(1, 1).long(),
        torch.zeros(1, 1, dtype=torch.bool),
        center_fraction=0.3,
        ensure_match=ensure,
    )
    return places, (match[0] != NO_OBJECT).nonzero().squeeze(1)


@pytest.mark.parametrize(
    ("side", "level"),
    [
        (9, 3),
        (31, 3),
        (32, 3),
        (63.75, 3),
        (64, 4),
        (127.75, 4),
        (128, 5),
        (255.75, 5),
        (256, 6),
        (511.75, 6),
        (512, 7),
        (1023.75, 7),
        (1024, 7),
        (1270, 7),
    ],
)
def test_levels_by_scale(side: float, level: int):
    """S_l <= scale < 2 S_l, all that are smaller on P3, all that are larger on P7."""
    places, positions = match_one([4.0, 4.0, 4 + side, 4 + side], ensure=True)
    assert len(positions) > 0
    assert (places.level[positions] + 3).unique().tolist() == [level]


@pytest.mark.parametrize(("side", "share"), [(8, 0.09), (16, 0.36), (24, 0.81), (28, 1.0)])
def test_share_of_small_objects_with_a_positive(side: int, share: float):
    """Over all places in a cell, (0.3 * side / 8)^2 hold an anchor centre; ensure_match raises it to all of them."""
    steps = [i / 20 * 8 + 0.2 for i in range(20)]
    places = torch.tensor([[y, x] for y in steps for x in steps])
    boxes = torch.cat([places.flip(1), places.flip(1) + side], dim=1)[:, None] + 64
    places = places_of(128, 128)
    valid = torch.ones(400, len(places.level), dtype=torch.bool)
    labels, crowd = torch.zeros(400, 1).long(), torch.zeros(400, 1, dtype=torch.bool)
    for ensure, expected in ((False, share), (True, 1.0)):
        match = match_anchors(places, valid, boxes, labels, crowd, center_fraction=0.3, ensure_match=ensure)
        assert (match != NO_OBJECT).any(1).float().mean().item() == pytest.approx(expected, abs=0.021)


def test_the_smallest_of_several_objects_wins():
    large, small, crowd = (0, 0, 240, 240), (64, 64, 176, 176), (110, 110, 130, 130)  # one centre, all on P3
    objects: Objects = [(large, 0, False), (small, 1, False), (crowd, 2, True)]
    for order in itertools.permutations(objects):
        boxes, labels, crowds = padded([list(order)])
        places = places_of(64, 64)
        match = match_anchors(
            places,
            torch.ones(1, len(places.level), dtype=torch.bool),
            boxes,
            labels,
            crowds,
            center_fraction=0.5,
            ensure_match=False,
        )
        won = labels[0][match[0][match[0] != NO_OBJECT]].tolist()
        assert won.count(1) == 4, "centres at 28 and 36 px lie in 23..37"
        assert won.count(0) == 16 - 4, "those at 20 and 44 px besides in 15..45"
        assert 2 not in won


def test_anchors_on_padding_are_never_positive():
    """Whatever the mask: objects of a batch lie inside their image, so that sizes alone would not show it."""
    places = places_of(160, 224)
    valid = torch.rand(1, len(places.level), generator=torch.Generator().manual_seed(0)) < 0.5
    boxes, labels, crowd = padded([[((4 * x, 4 * x, 4 * x + 80, 4 * x + 80), 0, False) for x in range(0, 140, 3)]])
    everywhere = match_anchors(
        places, torch.ones_like(valid), boxes, labels, crowd, center_fraction=0.9, ensure_match=False
    )
    assert (everywhere[~valid] != NO_OBJECT).any()
    for ensure in (False, True):
        match = match_anchors(places, valid, boxes, labels, crowd, center_fraction=0.9, ensure_match=ensure)
        assert torch.equal(match, everywhere.masked_fill(~valid, NO_OBJECT))
    sparse = match_anchors(places, valid, boxes, labels, crowd, center_fraction=0.01, ensure_match=True)
    assert (sparse[~valid] == NO_OBJECT).all()


@settings(max_examples=40, deadline=None)
@given(objects=objects_in(256, 256), ensure=st.booleans())
def test_moving_by_a_p7_stride_moves_the_targets(objects: Objects, ensure: bool):
    places = places_of(384, 512)
    valid = torch.ones(1, len(places.level), dtype=torch.bool)
    boxes, labels, crowd = padded([objects])
    rules = {"center_fraction": 0.3, "ensure_match": ensure}
    before = match_anchors(places, valid, boxes, labels, crowd, **rules)[0]
    after = match_anchors(places, valid, boxes + boxes.new_tensor([256, 128, 256, 128]), labels, crowd, **rules)[0]
    cells = 128 // places.stride.long()
    matched = (before != NO_OBJECT).nonzero().squeeze(1)
    moved = matched + cells[matched] * places.columns[places.level[matched]] + 2 * cells[matched]
    assert torch.equal(places.level[moved], places.level[matched])
    assert torch.equal(after[moved], before[matched])
    assert (after != NO_OBJECT).sum() == len(matched)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), ensure=st.booleans())
def test_order_of_objects_and_images_does_not_matter(data: st.DataObject, ensure: bool):
    batch = [data.draw(objects_in(160, 224)) for _ in range(3)]
    places = places_of(160, 224)
    valid = places.valid(torch.tensor([[160, 224], [100, 130], [33, 224]]))
    boxes, labels, crowd = padded(batch)
    rules = {"center_fraction": 0.3, "ensure_match": ensure}
    match = match_anchors(places, valid, boxes, labels, crowd, **rules)

    images = torch.tensor(data.draw(st.permutations(range(3))))
    assert torch.equal(
        match_anchors(places, valid[images], boxes[images], labels[images], crowd[images], **rules), match[images]
    )
    for i, objects in enumerate(batch):  # each image alone, without the padding that the others bring
        assert torch.equal(match_anchors(places, valid[i : i + 1], *padded([objects]), **rules)[0], match[i])
    m = labels.shape[1]
    order = torch.tensor(data.draw(st.permutations(range(m))), dtype=torch.int64)
    shuffled = match_anchors(places, valid, boxes[:, order], labels[:, order], crowd[:, order], **rules)
    assert torch.equal(shuffled == NO_OBJECT, match == NO_OBJECT)
    if m:  # objects of one size may swap
        sizes = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
        found = torch.where(shuffled == NO_OBJECT, shuffled, order[shuffled.clamp(min=0)])
        assert torch.equal(sizes.gather(1, found.clamp(min=0)), sizes.gather(1, match.clamp(min=0)))


# --- proposals -------------------------------------------------------------------------------------------------------


def corners(box: Box) -> Box:
    """Of a box given by its first corner and its sides."""
    x, y, width, height = box
    return x, y, x + width, y + height


SMALL_BOXES = st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(0, 24)] * 2).map(corners)
CLOSE_BOXES = st.tuples(*[st.integers(0, 2)] * 2, *[st.integers(18, 20)] * 2).map(corners)
"""Most pairs have an IoU of 0.7 to 1."""


def intersection(a: Box, b: Box) -> int:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def union(a: Box, b: Box) -> int:
    return area(a) + area(b) - intersection(a, b)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), quarters=st.integers(1, 4), count=st.integers(1, 8))
def test_proposals_are_literal_greedy_suppression(data: st.DataObject, quarters: int, count: int):
    a = 12
    batch = [data.draw(st.lists(SMALL_BOXES | CLOSE_BOXES, min_size=a, max_size=a)) for _ in range(2)]
    scores = [data.draw(st.permutations(range(a))) for _ in range(2)]
    valid = [[True, *data.draw(st.lists(st.booleans(), min_size=a - 1, max_size=a - 1))] for _ in range(2)]
    proposals = make_proposals(
        torch.tensor(batch) / 4, torch.tensor(scores) - 6.0, torch.tensor(valid), nms_iou=quarters / 4, count=count
    )
    expected = []
    for boxes, score, ok in zip(batch, scores, valid, strict=True):
        kept: list[int] = []
        for i in sorted((i for i in range(a) if ok[i]), key=lambda i: -score[i]):
            if all(4 * intersection(boxes[i], boxes[j]) <= quarters * union(boxes[i], boxes[j]) for j in kept):
                kept.append(i)
        expected.append(kept[:count])
    assert proposals.positions.shape == (2, max(map(len, expected)))
    for i, kept in enumerate(expected):
        assert proposals.valid[i].tolist() == [r < len(kept) for r in range(proposals.valid.shape[1])]
        assert proposals.positions[i, : len(kept)].tolist() == kept
    for i, r in itertools.product(range(2), range(proposals.positions.shape[1])):
        assert proposals.boxes[i, r].tolist() == [c / 4 for c in batch[i][proposals.positions[i, r]]]


def test_diverged_boxes_are_no_crash():
    """A step with NaN must reach the check that skips it."""
    boxes = torch.full((1, 4, 4), torch.nan)
    boxes[0, 1] = torch.tensor([0.0, 0.0, 8.0, 8.0])
    boxes[0, 2] = torch.inf
    valid = torch.ones(1, 4, dtype=torch.bool)
    proposals = make_proposals(boxes, torch.tensor([[torch.nan, 1, 2, 3]]), valid, nms_iou=0.8, count=10)
    assert sorted(proposals.positions[0].tolist()) == [0, 1, 2, 3]
    targets = match_proposals(
        proposals,
        boxes[:, 1:2],
        torch.zeros(1, 1).long(),
        torch.zeros(1, 1, dtype=torch.bool),
        num_classes=K,
        positive_iou=0.6,
    )
    assert targets.match[0].tolist() == [0 if p == 1 else NO_OBJECT for p in proposals.positions[0].tolist()]


def some_proposals(batch: list[list[Box]]) -> Proposals:
    r = max(map(len, batch))
    boxes = torch.tensor([0.0, 0.0, 640.0, 640.0]).repeat(len(batch), r, 1)  # on padding, as padded objects
    for i, row in enumerate(batch):
        for j, box in enumerate(row):
            boxes[i, j] = torch.tensor(box) / 4
    valid = torch.arange(r) < torch.tensor([[len(row)] for row in batch])
    return Proposals(torch.arange(r).expand(len(batch), r), boxes, valid)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), tenths=st.sampled_from([5, 6, 7]))
def test_proposals_match_the_literal_version(data: st.DataObject, tenths: int):
    some_objects = st.lists(
        st.tuples(SMALL_BOXES.filter(area), st.integers(0, K - 1), st.integers(0, 3).map(lambda c: c == 0)), max_size=4
    )
    batch = [data.draw(some_objects) for _ in range(2)]
    near = st.tuples(*[st.integers(-2, 2)] * 4)
    boxes: list[list[Box]] = []
    for objects in batch:
        row = data.draw(st.lists(SMALL_BOXES, min_size=1, max_size=4))
        for box, _, _ in objects:
            shift = data.draw(near)
            moved = [c + s for c, s in zip(box, shift, strict=True)]
            row.append((moved[0], moved[1], max(moved[0], moved[2]), max(moved[1], moved[3])))
        boxes.append(row)
    proposals, objects_padded = some_proposals(boxes), padded(batch, extra=data.draw(st.integers(0, 1)))
    for i, objects in enumerate(batch):  # padding as attractive as can be
        if objects:
            proposals.boxes[i, len(boxes[i]) :] = objects_padded[0][i, 0]
    targets = match_proposals(proposals, *objects_padded, num_classes=K, positive_iou=tenths / 10)
    found = match_overlapping(proposals.boxes, proposals.valid, *objects_padded, positive_iou=tenths / 10)
    assert torch.equal(found, targets.match)
    for i, objects in enumerate(batch):
        for r in range(targets.match.shape[1]):
            match, label = int(targets.match[i, r]), int(targets.classes[i, r])
            if r >= len(boxes[i]):
                assert (match, label) == (NO_OBJECT, IGNORED)
                continue
            box = boxes[i][r]
            overlap = {j: (intersection(box, o), union(box, o)) for j, (o, _, crowd) in enumerate(objects) if not crowd}
            best = max((n / d for n, d in overlap.values()), default=0.0)
            winners = {j for j, (n, d) in overlap.items() if n / d == best and 10 * n >= tenths * d}
            if winners:
                assert match in winners
                assert label == objects[match][1]
                continue
            crowded = any(crowd and area(box) and 2 * intersection(box, o) >= area(box) for o, _, crowd in objects)
            assert (match, label) == (NO_OBJECT, IGNORED if crowded else K)
        for j in range(targets.best_iou.shape[1]):
            real = j < len(objects) and not objects[j][2]
            expected = max(intersection(b, objects[j][0]) / union(b, objects[j][0]) for b in boxes[i]) if real else 0
            assert float(targets.best_iou[i, j]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("box", "match", "label"),
    [
        ((0, 0, 60, 100), 0, 2),  # IoU exactly 0.6
        ((0, 0, 59, 100), NO_OBJECT, K),
        ((200, 0, 300, 100), NO_OBJECT, IGNORED),  # the crowd region itself: never a target
        ((250, 0, 350, 100), NO_OBJECT, IGNORED),  # exactly half inside it
        ((251, 0, 351, 100), NO_OBJECT, K),
        ((210, 10, 230, 30), 2, 3),  # an object inside the crowd region
        ((0, 300, 100, 400), NO_OBJECT, K),
        ((220, 20, 220, 20), NO_OBJECT, K),  # without area
    ],
)
def test_borders_and_crowd(box: Box, match: int, label: int):
    objects: Objects = [((0, 0, 100, 100), 2, False), ((200, 0, 300, 100), 1, True), ((210, 10, 230, 30), 3, False)]
    targets = match_proposals(some_proposals([[box]]), *padded([objects]), num_classes=K, positive_iou=0.6)
    assert (targets.match.item(), targets.classes.item()) == (match, label)


def test_images_without_objects():
    for objects in (padded([[], []]), padded([[], []], extra=2)):
        targets = match_proposals(
            some_proposals([[(0, 0, 2560, 2560)], [(0, 0, 8, 8)] * 2]), *objects, num_classes=K, positive_iou=0.6
        )
        assert targets.match.eq(NO_OBJECT).all()
        assert targets.classes.tolist() == [[K, IGNORED], [K, K]]
        assert targets.best_iou.eq(0).all()
        places = places_of(64, 64)
        valid = torch.ones(2, len(places.level), dtype=torch.bool)
        assert match_anchors(places, valid, *objects, center_fraction=0.3, ensure_match=True).eq(NO_OBJECT).all()


# --- sampling --------------------------------------------------------------------------------------------------------


def test_random_keys_depend_on_their_own_seed_alone():
    cpu = torch.device("cpu")
    state = torch.get_rng_state()
    seeds = torch.tensor([5, 2**62 + 11, 7])
    keys = random_keys(seeds, 50, 2, cpu)
    assert keys.shape == (3, 50, 2)
    assert ((keys >= 0) & (keys < 1)).all()
    assert torch.equal(random_keys(seeds.flip(0), 50, 2, cpu), keys.flip(0))
    assert torch.equal(random_keys(seeds[1:2], 50, 2, cpu)[0], keys[1])
    assert len(keys.unique()) > 290
    assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(0, 12), fraction=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_balanced_samples_literal(data: st.DataObject, count: int, fraction: float):
    r = data.draw(st.integers(1, 14))
    classes = data.draw(st.lists(st.lists(st.integers(IGNORED, K), min_size=r, max_size=r), min_size=1, max_size=3))
    keys = [data.draw(st.permutations(range(r))) for _ in classes]
    chosen = sample_balanced(
        torch.tensor(classes), torch.tensor(keys) / 16, num_classes=K, count=count, positive_fraction=fraction
    )
    for row, key, got in zip(classes, keys, chosen.tolist(), strict=True):
        by_key = sorted(range(r), key=lambda i: key[i])
        positives = [i for i in by_key if 0 <= row[i] < K][: int(count * fraction)]
        negatives = [i for i in by_key if row[i] == K][: count - len(positives)]
        assert [i for i in range(r) if got[i]] == sorted(positives + negatives)


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [(100, 900, (32, 96)), (10, 900, (10, 118)), (100, 20, (32, 20)), (0, 900, (0, 128))],
)
def test_the_papers_128_at_one_to_three(positives: int, negatives: int, expected: tuple[int, int]):
    classes = torch.tensor([1] * positives + [K] * negatives + [IGNORED] * 50)[None]
    keys = random_keys(torch.tensor([3]), classes.shape[1], 1, torch.device("cpu"))[..., 0]
    chosen = sample_balanced(classes, keys, num_classes=K, count=128, positive_fraction=0.25)
    assert ((chosen & (classes < K)).sum().item(), (chosen & (classes == K)).sum().item()) == expected


def test_every_positive_is_as_likely():
    """4 of 12, over 3000 seeds: each 1000 times, give or take five standard deviations."""
    eligible = torch.tensor([[True, False] * 12]).expand(3000, -1)
    keys = random_keys(torch.arange(3000) * 977, 24, 1, torch.device("cpu"))[..., 0]
    times = sample_some(eligible, keys, 4).sum(0)
    assert times[1::2].eq(0).all()
    assert (times[::2] - 1000).abs().max() < 5 * (3000 * (1 / 3) * (2 / 3)) ** 0.5


def test_some_takes_a_count_for_each_row():
    keys = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 1.0, 0.0]])
    eligible = torch.tensor([[True, True, True], [False, True, True], [False, False, False]])
    chosen = sample_some(eligible, keys, torch.tensor([[2], [5], [1]]))
    assert chosen.tolist() == [[False, True, True], [False, True, True], [False, False, False]]


@pytest.mark.parametrize("columns", [40, 500, 2000])
def test_of_equal_keys_the_first_are_taken_however_long_the_row(columns: int):
    """Equal losses are common (dead features, certain backgrounds); padding must not change who is chosen."""
    eligible = torch.ones(1, columns, dtype=torch.bool)
    eligible[:, :5] = False
    assert sample_some(eligible, torch.zeros(1, columns), 3).nonzero()[:, 1].tolist() == [5, 6, 7]
