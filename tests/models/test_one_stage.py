"""RetinaNet, FCOS, ATSS and GFL: torchvision's own detectors as oracle, forms written out for the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection._utils import BoxLinearCoder

from mimicdet.build import LoadedModel, build_model, load_model
from mimicdet.config import SETTINGS_OF, InferenceSettings
from mimicdet.errors import UserError
from mimicdet.families.atss import from_distributions, from_scaled_deltas
from mimicdet.families.fcos import from_distances
from mimicdet.families.retinanet import from_deltas
from mimicdet.inference.decode import decode
from mimicdet.models.anchors import Anchors
from mimicdet.models.one_stage import OneStage, first_part, second_part
from tests.fakes.tiny import enliven

FAMILIES = ("retinanet", "fcos", "atss", "gfl")
SIZES = torch.tensor([[128, 160], [100, 90]])


def tiny(family: str, *, channels: int = 16, classes: int = 3, **changes: Any) -> OneStage:
    settings = SETTINGS_OF[family].Model(
        family=family,
        backbone="test_resnet",
        weights="random",
        pyramid_channels=channels,
        frozen_stages=0,
        head_groups=0 if family == "retinanet" else 4,
        **changes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(settings, classes).eval()
        assert isinstance(model, OneStage)
        enliven(model.head)
    return model


def images(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 128, 160, generator=torch.Generator().manual_seed(seed))


TORCHVISION = {
    "retinanet_resnet50_fpn": ("retinanet", "p5", 0),
    "retinanet_resnet50_fpn_v2": ("retinanet", "c5", 32),
    "fcos_resnet50_fpn": ("fcos", "p5", 32),
}


@pytest.fixture(scope="module", params=TORCHVISION)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, LoadedModel]:
    """Torchvision's model with random weights that find something here and there, and ours from its file."""
    torch.manual_seed(0)
    model = getattr(detection, request.param)(weights=None, weights_backbone=None, num_classes=91).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.02)
    nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.01)
    if "fcos" in request.param:  # boxes with an area: FCOS cuts distances off at 0
        nn.init.constant_(model.head.regression_head.bbox_reg.bias, 2.0)
    file = tmp_path_factory.mktemp("weights") / f"{request.param}.pth"
    torch.save(model.state_dict(), file)
    return request.param, model, load_model(file)


@torch.no_grad()
def test_torchvisions_weights_give_torchvisions_numbers(published: tuple[str, Any, LoadedModel]) -> None:
    name, theirs, loaded = published
    ours = loaded.model
    assert isinstance(ours, OneStage)
    settings = loaded.settings
    assert (settings.family, settings.pyramid_top, settings.head_groups) == TORCHVISION[name]
    assert len(loaded.categories) == 80
    assert (loaded.categories[0].id, loaded.categories[0].name, loaded.categories[-1].id) == (1, "person", 90)
    image = torch.rand(3, 224, 288, generator=torch.Generator().manual_seed(0))  # P7 has cells of 112 x 96 there
    theirs.transform.min_size, theirs.transform.max_size = (224,), 1000
    prepared, _ = theirs.transform([image])
    features = list(theirs.backbone(prepared.tensors).values())
    expected = theirs.head(features)
    maps = ours.maps(image[None])
    assert len(maps.features) == 5
    for found, wanted in zip(maps.features, features, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)
    kept = [category.id for category in loaded.categories]
    torch.testing.assert_close(maps.head.logits, expected["cls_logits"][..., kept], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(maps.head.box_outputs, expected["bbox_regression"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(maps.places.anchors, theirs.anchor_generator(prepared, features)[0], atol=0, rtol=0)


@torch.no_grad()
def test_torchvisions_weights_give_torchvisions_detections(published: tuple[str, Any, LoadedModel]) -> None:
    """Where few enough scores pass the threshold that torchvision's limit of 1,000 candidates a level does not bite."""
    _, theirs, loaded = published
    image = torch.rand(3, 224, 288, generator=torch.Generator().manual_seed(0))
    theirs.transform.min_size, theirs.transform.max_size = (224,), 1000
    output = loaded.model(image[None], dense=True, top=None)
    threshold = float(output.scores.flatten().topk(300).values[-1])
    theirs.score_thresh, theirs.detections_per_img = threshold, 100
    wanted = theirs([image])[0]
    ids = torch.tensor([category.id for category in loaded.categories])
    sizes = torch.tensor([[224, 288]])
    found = decode(output, sizes, InferenceSettings(score_threshold=threshold, nms_iou=theirs.nms_thresh))[0]
    real = torch.isin(wanted["labels"], ids)  # torchvision has outputs for ids that COCO does not use
    assert real.sum() > 20
    count = min(int(real.sum()), len(found.scores))
    torch.testing.assert_close(found.scores[:count], wanted["scores"][real][:count], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.boxes[:20], wanted["boxes"][real][:20], atol=0.02, rtol=0)


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, other := tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds no RetinaNet or FCOS"):
        load_model(other)
    (broken := tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_model(broken)
    torch.save([1], listed := tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds no weights by name"):
        load_model(listed)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_positions_are_the_best_of_the_dense_form(family: str) -> None:
    model, batch = tiny(family), images()
    dense = model(batch, SIZES, dense=True, top=None)
    some = model(batch, SIZES, top=50)
    assert some.scores.shape == (2, 50, 3)
    expected = dense.scores.amax(-1).topk(50, dim=1).indices
    torch.testing.assert_close(some.positions, expected)
    for b in range(2):
        torch.testing.assert_close(some.scores[b], dense.scores[b, expected[b]])
        torch.testing.assert_close(some.boxes[b], dense.boxes[b, expected[b]])
    inference = InferenceSettings(score_threshold=0.0)
    again = model(batch, SIZES, dense=True, top=50)
    for one, other in zip(decode(again, SIZES, inference), decode(some, SIZES, inference), strict=True):
        for first, second in zip(one, other, strict=True):
            torch.testing.assert_close(first, second)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_nothing_is_found_on_padding(family: str) -> None:
    model = tiny(family)
    output = model(images(), SIZES, dense=True, top=None)
    valid = model.maps(images(), SIZES).places.valid(SIZES)
    assert (output.scores[~valid] == 0).all()
    assert (output.scores[valid] > 0).all()
    for detections, (height, width) in zip(
        decode(output, SIZES, InferenceSettings(score_threshold=0.0)), SIZES.tolist(), strict=True
    ):
        assert (detections.boxes[:, 2] <= width).all()
        assert (detections.boxes[:, 3] <= height).all()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_dense_maps(family: str) -> None:
    model = tiny(family)
    maps, output = model.dense_maps(images(), SIZES), model(images(), SIZES, dense=True, top=None)
    assert maps.level_numbers == (3, 4, 5, 6, 7)
    assert maps.per_cell == (9 if family == "retinanet" else 1)
    assert maps.logits.shape[1] == maps.per_cell * sum(f.shape[2] * f.shape[3] for f in maps.features)
    torch.testing.assert_close(maps.boxes, output.boxes)
    if family in ("retinanet", "gfl"):  # the others multiply by centerness
        torch.testing.assert_close(maps.logits.sigmoid() * maps.valid[..., None], output.scores)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_head_cut_in_two_is_the_head(family: str) -> None:
    model = tiny(family)
    maps = model.maps(images())
    branches = model.head.branches()
    hidden = first_part(branches, maps.features)
    assert all(feature.min() >= 0 for part in hidden for feature in part), "cut behind an activation"
    logits, boxes = second_part(branches, hidden)
    torch.testing.assert_close(logits, maps.head.logits)
    torch.testing.assert_close(boxes, maps.head.box_outputs)


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        tiny("gfl")(torch.zeros(1, 3, 60, 64))


def test_anchors_on_centres() -> None:
    base = [torch.tensor([[-side, -side, side, side]]) for side in (8.0, 16.0)]
    places = Anchors(base=base, levels=[2, 3], convention="center")([(2, 3), (1, 2)])
    assert places.anchors[4].tolist() == [6 - 8, 6 - 8, 6 + 8, 6 + 8]
    assert places.anchors[7].tolist() == [12 - 16, 4 - 16, 12 + 16, 4 + 16]
    assert places.level.tolist() == [0] * 6 + [1] * 2
    assert places.stride.tolist() == [4.0] * 6 + [8.0] * 2
    assert places.valid(torch.tensor([[4, 9]])).tolist() == [[True] * 3 + [False] * 3 + [True, True]]


def test_box_decoders() -> None:
    anchors = torch.tensor([[10.0, 20.0, 18.0, 28.0]])
    stride = torch.tensor([8.0])
    outputs = torch.tensor([[0.5, 1.0, 1.5, 2.0]])
    coder = BoxLinearCoder(normalize_by_size=True)
    torch.testing.assert_close(from_distances(outputs, anchors, stride), coder.decode(outputs, anchors))
    torch.testing.assert_close(
        from_scaled_deltas(outputs, anchors, stride),
        from_deltas(outputs * torch.tensor([0.1, 0.1, 0.2, 0.2]), anchors, stride),
    )
    logits = torch.full((1, 4, 17), -1e4)
    for side, (low, share) in enumerate(((1, 0.5), (2, 0.25), (0, 1.0), (15, 0.0))):
        logits[0, side, low], logits[0, side, low + 1] = (
            torch.tensor([share, 1 - share]).clamp(min=1e-30).log().tolist()
        )
    expected = [14 - 1.5 * 8, 24 - 2.75 * 8, 14 + 0 * 8, 24 + 16 * 8]
    torch.testing.assert_close(from_distributions(logits.flatten(1), anchors, stride), torch.tensor([expected]))
