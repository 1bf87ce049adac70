"""Schemas that both supported ComfyUIs accept."""

import pytest

from regionstyle.nodes.engine.node_schema import known_fields

SCRIPT = """
from comfy_api.latest import io
from regionstyle.nodes.engine.node_schema import node_input, node_output, node_schema

schema = node_schema(
    node_id="RegionStyleProbe", display_name="Probe", category="RegionStyle", search_aliases=["probe"],
    inputs=[
        node_input(io.Float, "strength", default=0.5, min=0.0, max=1.0, tooltip="how far", advanced=True),
        node_input(io.Combo, "style", options=["a", "b"]),
        node_input(io.Image, "image", optional=True, raw_link=False),
    ],
    outputs=[node_output(io.Image, "picture")],
)

class Probe(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema

    @classmethod
    def execute(cls, **inputs):
        return io.NodeOutput(None)

info = Probe.GET_NODE_INFO_V1()
try:
    node_input(io.Float, "strength", defualt=1.0)
    typo = "accepted"
except TypeError:
    typo = "refused"
try:
    node_schema(node_id="Twin", inputs=[node_input(io.Image, "image")], outputs=[node_output(io.Image, "image")])
    twin = "accepted"
except TypeError as error:
    twin = str(error)
print(json.dumps({"twin": twin, "info": {key: info[key] for key in ("input", "output_name")}, "typo": typo}))
"""


@pytest.mark.slow
@pytest.mark.comfy
@pytest.mark.parametrize("fixture", ["run_in_comfy", "run_in_old_comfy"])
def test_one_schema_for_both_versions(request, fixture):
    result = request.getfixturevalue(fixture)(SCRIPT)
    assert result["info"]["input"]["required"]["strength"][1]["max"] == 1.0
    assert result["info"]["output_name"] == ["picture"]
    assert result["typo"] == "refused"
    assert result["twin"] == "Twin: image: an input and an output with one id."


def test_only_later_keywords_are_left_out():
    def old(name, default=None):
        """The signature of an older version."""

    fields = {"name": 1, "default": 2, "advanced": True, "misspelt": 3}
    assert known_fields(old, fields, {"advanced"}) == {"name": 1, "default": 2, "misspelt": 3}
