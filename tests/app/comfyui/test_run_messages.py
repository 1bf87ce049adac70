"""`regionstyle run` shows on stderr what a browser would show on the nodes of this pack."""

import json

import pytest

from regionstyle.nodes.app.cli.main import main


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


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
    said = f"RegionStyleRegionsFromMask: 'star of {tmp_path.name}' not found in image 0: empty mask; 1 regions\n"
    assert shown.err.count(said) == 1  # drawn on the node, and kept in /history
    assert shown.out.strip().endswith(".png")
