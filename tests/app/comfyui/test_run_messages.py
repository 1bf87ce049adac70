"""`regionstyle run` shows on stderr what a browser would show on the nodes of this pack."""

import json

import pytest

from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.app.cli.run import node_messages


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def test_lines_of_this_packs_nodes_with_their_names():
    prompt = {
        "1": node("RegionStyleMaskIoU") | {"_meta": {"title": "How well"}},
        "2": node("PreviewAny"),
        "3": node("RegionStyleRestyle"),
    }
    outputs = {"1": {"text": ["mask 1: 1\nmask 2: 0"]}, "2": {"text": ["x"]}, "3": {"images": []}, "9": {"text": ["y"]}}
    assert node_messages(prompt, outputs) == '"How well" (1): mask 1: 1\n"How well" (1): mask 2: 0'


@pytest.mark.slow
@pytest.mark.parametrize("place", ["comfy_server", "comfy_path"], ids=["server", "process"])
def test_a_warning_reaches_the_shell(place, request, tmp_path, capsys):
    found = request.getfixturevalue(place)
    prompt = {
        "1": node("SolidMask", value=0.0, width=16, height=16),
        "2": node("RegionStyleRegionsFromMask", mask=["1", 0], phrase=f"star of {tmp_path.name}", style=""),
        "3": node("EmptyImage", width=16, height=16, batch_size=1, color=0),
        "4": node("RegionStylePreviewRegions", image=["3", 0], regions=["2", 0]),
    }
    (tmp_path / "workflow.json").write_text(json.dumps(prompt))
    line = ["run", str(tmp_path / "workflow.json"), "--out", str(tmp_path / "out")]
    if place == "comfy_server":
        line += ["--server", found.url]
    assert main(line) == 0
    shown = capsys.readouterr()
    said = f"\"RegionStyleRegionsFromMask\" (2): 'star of {tmp_path.name}' not found in image 0: empty mask"
    assert said in shown.err
    assert shown.out.strip().endswith(".png")
