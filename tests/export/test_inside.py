"""Exported files reach nothing outside their folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicdet.errors import UserError
from mimicdet.export.exported_file import load
from mimicdet.export.inside import PARTS, require_onnx_inside, require_openvino_inside

onnx = pytest.importorskip("onnx")

WEIGHTS = np.arange(4, dtype=np.float32)


def external(location: str) -> Any:
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def as_initializer(graph: Any, tensor: Any) -> None:
    graph.initializer.append(tensor)


def as_constant(graph: Any, tensor: Any) -> None:
    graph.node.add(op_type="Constant", output=["w"]).attribute.add(
        name="value", type=onnx.AttributeProto.TENSOR
    ).t.CopyFrom(tensor)


def in_a_branch(graph: Any, tensor: Any) -> None:
    branch = graph.node.add(op_type="If", input=["x"], output=["w"]).attribute.add(
        name="then_branch", type=onnx.AttributeProto.GRAPH
    )
    as_constant(branch.g, tensor)


def as_sparse_values(graph: Any, tensor: Any) -> None:
    graph.sparse_initializer.add().values.CopyFrom(tensor)


PLACES = (as_initializer, as_constant, in_a_branch, as_sparse_values)


def save(file: Path, tensor: Any, place: Callable[[Any, Any], None] = as_initializer) -> Path:
    make = onnx.helper.make_tensor_value_info
    add = onnx.helper.make_node("Add", ["images", "w"], ["y"])
    takes = [make(name, onnx.TensorProto.FLOAT, [4]) for name in ("images", "sizes")]
    graph = onnx.helper.make_graph([], "g", takes, [make("y", onnx.TensorProto.FLOAT, [4])])
    place(graph, tensor)
    graph.node.append(add)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    file.write_bytes(model.SerializeToString())
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "model"
    (inside / "deep").mkdir(parents=True)
    for path in (tmp_path / "secret", inside / "weights", inside / "deep" / "weights"):
        path.write_bytes(WEIGHTS.tobytes())
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "to-weights").symlink_to(inside / "weights")
    (inside / "out").symlink_to(tmp_path)
    return inside


@pytest.mark.parametrize("name", ["weights", "./weights", "deep/weights", "to-weights"])
def test_weights_in_the_folder_are_read(folder: Path, name: str) -> None:
    pytest.importorskip("onnxruntime")
    run = load(save(folder / "model.onnx", external(name)), "onnx")
    found = run(np.ones(4, np.float32), np.ones(4, np.float32))
    assert found[0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "name", ["../secret", "ABSOLUTE", "link", "out/secret", "deep/../../secret", "none", "", "*/_ORT_MEM_ADDR_/*"]
)
def test_files_elsewhere_are_refused(folder: Path, name: str, place: Callable[[Any, Any], None]) -> None:
    name = str(folder.parent / "secret") if name == "ABSOLUTE" else name
    file = save(folder / "model.onnx", external(name), place)
    with pytest.raises(UserError, match=r"model\.onnx keeps weights in .*, which is no file in its folder"):
        load(file, "onnx")


def test_a_model_in_a_cache_of_links_is_read(folder: Path) -> None:
    """As hubs keep them: each file of a model is a link to a folder of contents."""
    save(folder / "contents", external("weights"))
    seen = folder.parent / "seen"
    seen.mkdir()
    (seen / "model.onnx").symlink_to(folder / "contents")
    (seen / "weights").symlink_to(folder / "weights")
    require_onnx_inside(seen / "model.onnx")


def test_the_walk_knows_every_message_of_onnx_that_leads_to_a_tensor() -> None:
    """Held against the package's own description of the format."""

    def leads(message: Any, seen: frozenset[str] = frozenset()) -> bool:
        if message.name == "TensorProto":
            return True
        inner = [f.message_type for f in message.fields if f.message_type and f.message_type.name not in seen]
        return any(leads(other, seen | {message.name}) for other in inner)

    found: dict[str, dict[int, str]] = {}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        name = message.name.removesuffix("Proto")
        if name in found or name == "Tensor":
            continue
        inner = {f.number: f.message_type for f in message.fields if f.message_type and leads(f.message_type)}
        found[name] = {number: other.name.removesuffix("Proto") for number, other in inner.items()}
        waiting += inner.values()
    tensor = onnx.TensorProto.DESCRIPTOR.fields_by_name["external_data"]
    assert found | {"Tensor": {tensor.number: tensor.message_type.name.removesuffix("Proto")}} == PARTS


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_mutants_are_refused_or_read_as_onnx_reads_them(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the format's own reader finds in a damaged file, the walk found it too or refused the file."""
    file = tmp_path_factory.getbasetemp() / "mutant.onnx"
    content = bytearray(save(file, external("../secret"), data.draw(st.sampled_from(PLACES))).read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[at] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        require_onnx_inside(file)
    except UserError:
        return
    model = onnx.ModelProto()
    try:
        model.ParseFromString(bytes(content))
    except Exception:
        return
    assert "../secret" not in set(locations(model))


def locations(message: Any) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for one in [value] if hasattr(value, "ListFields") else value:
            if field.name == "external_data" and one.key == "location":
                yield one.value
            yield from locations(one)


@pytest.mark.parametrize(
    "content", [b"", b"\x3a", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 20, b"\x00\x00", b"\x3b", b"<net/>"]
)
def test_what_is_not_well_formed_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx cannot be loaded .*; export the model again"):
        load(tmp_path / "model.onnx", "onnx")


BOMB = b'<!DOCTYPE n [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;">]><net name="&b;"/>'


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "cannot be loaded"),
        (b"<net", "cannot be loaded"),
        (BOMB, "cannot be loaded"),
        (b"<other/>", "is no OpenVINO model"),
        (b"\x08\x0a\x12\x00", "cannot be loaded"),
        (b'<net name="x" version="11"/>', r"there is no model\.bin in its folder"),
    ],
)
def test_an_xml_that_is_no_model_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "model.xml").write_bytes(content)
    with pytest.raises(UserError, match=found):
        require_openvino_inside(tmp_path / "model.xml")


def test_openvino_reads_weights_of_its_folder_alone(folder: Path) -> None:
    (folder / "model.xml").write_bytes(b'<net name="x" version="11"/>')
    (folder / "model.bin").symlink_to(folder.parent / "secret")
    with pytest.raises(UserError, match=r"model\.xml: there is no model\.bin in its folder"):
        require_openvino_inside(folder / "model.xml")
    (folder / "model.bin").unlink()
    (folder / "model.bin").write_bytes(b"")
    require_openvino_inside(folder / "model.xml")
