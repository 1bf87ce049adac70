"""The door of every node: whatever comes over a link is accepted or refused in one sentence that names the input."""

import pytest

# Every node, every input, every value that its type does not hold: only that value is given, so that nothing is
# computed where the door is open by mistake (then another input is named as missing).
FUZZ = """
import numpy as np, torch
from importlib import import_module
from comfy_api.latest import io
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.settings.node import Node
from regionstyle.nodes.extension import SLICES

modules = [import_module(f"regionstyle.nodes.{name}.nodes") for name in SLICES]
for module in modules:
    getattr(module, "register", list)()
NODES = [node for module in modules for node in module.NODES]
nan = float("nan")
plain = {"object": object(), "list": [1], "dict": {"a": 1}, "bytes": b"x", "complex": 1j, "class": int,
         "tensor": torch.zeros(3), "function": len, "nothing": None}
texts = {"text": "x", "digits": "8", "half a pair": "\\ud800", "empty": "", "long": "x" * 100000}
whole = {"low": -10**9, "high": 2**64, "huge": 10**400, "beyond": -10**5000}
parts = {"part": 2.5, "nan": nan, "inf": float("inf"), "minus inf": -float("inf")}
flags = {"true": True, "false": False}
numbers = {"INT": {**plain, **texts, **whole, **parts, **flags},
           "FLOAT": {**plain, **texts, **whole, **flags, "nan": nan, "inf": float("inf"), "minus inf": -float("inf")},
           "BOOLEAN": {**plain, **texts, **whole, **parts, "one": 1, "zero": 0},
           "STRING": {**plain, **whole, **parts, **flags},
           "COMBO": {**plain, **whole, **parts, **flags}}
image = torch.rand(1, 4, 4, 3)
tensors = {
    "IMAGE": {"array": image.numpy(), "one": image[0], "two channels": image[..., :2], "none": image[:0],
              "no width": image[:, :, :0], "bytes": (image * 255).to(torch.uint8), "video": image[None],
              "nan": image * nan, "inf": image / 0, "flags": image > 0.5},
    "MASK": {"array": image[..., 0].numpy(), "line": torch.rand(4), "four": torch.rand(1, 1, 4, 4),
             "none": torch.rand(0, 4, 4), "no height": torch.rand(1, 0, 4), "nan": torch.full((1, 4, 4), nan),
             "inf": torch.full((4, 4), float("inf")), "complex": torch.rand(1, 4, 4) * 1j},
}
other = {**plain, **texts, **whole, **parts, **flags, "image": image}

tried, wrong = 0, []
for node in NODES:
    assert issubclass(node, Node), node
    for one in node.define_schema().inputs:
        kind = str(one.get_io_type())
        values = numbers.get(kind) or ({**plain, **texts, **whole, **parts, **flags, **tensors[kind]}
                                       if kind in tensors else other)
        if kind == "COMBO" and one.default is not None:
            values = {**values, **texts}
        if one.id == "bboxes":  # of ComfyUI's own, one or several: the node itself looks into them
            values = {name: value for name, value in values.items() if name not in ("list", "dict")}
        if kind == "FLOAT" and one.min is None or kind == "INT" and one.max is None:
            wrong.append(f"{node.__name__}.{one.id}: no range")
        for label, value in values.items():
            if value is None and one.optional:
                continue
            tried += 1
            try:
                node.execute(**{one.id: value})
                said = "accepted"
            except RegionStyleError as error:
                said = str(error)
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            if not said.startswith(f"{one.id}: got ") or len(said) > 300 or not said.isascii() or "\\n" in said:
                wrong.append(f"{node.__name__}.{one.id} = {label}: {said[:200]}")
print(json.dumps({"nodes": len(NODES), "tried": tried, "wrong": wrong}))
"""

# What the door lets through, and that ComfyUI's copies of the class have one door.
THROUGH = """
import torch
from comfy_api.internal import make_locked_method_func
from comfy_api.latest import io
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.node_schema import node_input, node_output, node_schema
from regionstyle.nodes.engine.settings.node import Node

seen = []

class Probe(Node):
    @classmethod
    def define_schema(cls):
        seen.append("schema")
        return node_schema(node_id="RegionStyleProbe", display_name="Probe", category="RegionStyle", inputs=[
            node_input(io.Mask, "b", optional=True),
            node_input(io.Image, "image"),
            node_input(io.Int, "count", default=3, min=1, max=9),
            node_input(io.Combo, "file", options=["one.png"]),
            node_input(io.Combo, "mode", options=["soft", "hard"], default="soft"),
        ], outputs=[node_output(io.Image, "picture")])

    @classmethod
    def execute(cls, image, count, file, mode, b):
        return io.NodeOutput([type(image).__name__, count, file, mode, b is None])

def said(call):
    try:
        return call()
    except RegionStyleError as error:
        return str(error)

image = torch.rand(2, 4, 4, 4)
clone = Probe.PREPARE_CLASS_CLONE(None)
run = make_locked_method_func(Probe, Probe.FUNCTION, clone)
seen.clear()
print(json.dumps({
    "run": run(image=image, file="new.png").result[0],
    "checks": len(seen),
    "by place": Probe.execute(image, 4.0, "one.png", "hard", torch.rand(4, 4)).result[0],
    "missing": said(lambda: Probe.execute(count=1)),
    "unknown": said(lambda: Probe.execute(image, file="one.png", colour=1)),
    "too many": said(lambda: Probe.execute(image, 1, "a", "soft", None, 6)),
    "first": said(lambda: run(image=1, count="x", file="one.png")),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["run_in_comfy", "run_in_old_comfy"])
def test_only_the_packs_own_sentence_comes_out(request, fixture):
    found = request.getfixturevalue(fixture)(FUZZ)
    assert found["wrong"] == []
    assert found["nodes"] > 30
    assert found["tried"] > 3000


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["run_in_comfy", "run_in_old_comfy"])
def test_what_is_right_comes_through(request, fixture):
    found = request.getfixturevalue(fixture)(THROUGH)
    assert found["run"] == ["Tensor", 3, "new.png", "soft", True]
    assert found["checks"] == 1
    assert found["by place"] == ["Tensor", 4, "one.png", "hard", False]
    assert found["missing"] == "image: got nothing, expected an IMAGE. Connect it, or give a value."
    assert found["unknown"].startswith("inputs: got colour, expected some of: image, count, file, mode, b.")
    assert found["too many"].startswith("inputs: got 6 values")
    assert found["first"] == "image: got 1, expected an IMAGE [B,H,W,3]. Connect an image output."
