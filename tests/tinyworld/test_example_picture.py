"""The workflows' picture comes to where Load Image lists it, and never over a file of the user's."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from regionstyle.nodes.app.evaluation.scenes import demo_scene
from regionstyle.nodes.tinyworld.example_picture import EXAMPLE, PAINTED, PHOTO, PICTURES, put_example


def test_it_is_copied_whole_and_nothing_else_stays(tmp_path):
    place = put_example(tmp_path / "input")
    assert place.read_bytes() == EXAMPLE.read_bytes()
    assert list((tmp_path / "input").iterdir()) == [place]


def test_a_file_of_the_user_stays(tmp_path):
    (tmp_path / EXAMPLE.name).write_bytes(b"mine")
    assert put_example(tmp_path).read_bytes() == b"mine"


def test_a_file_in_the_folders_place_is_a_warning(tmp_path, caplog):
    (tmp_path / "input").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        assert put_example(tmp_path / "input") is None
    assert EXAMPLE.name in caplog.text
    assert "upload it" in caplog.text


def test_the_painted_picture_is_the_scene_with_the_triangle_painted():
    """Its alpha is 0 where the mask is 1, as the mask editor saves it."""
    scene, painted = np.asarray(Image.open(EXAMPLE).convert("RGB")), np.asarray(Image.open(PAINTED))
    assert (painted[..., :3] == scene).all()
    thing = demo_scene(10).objects
    (triangle,) = (each.mask > 0.5 for each in thing if each.phrase == "orange triangle")
    mask = painted[..., 3] == 0
    assert (mask & triangle).sum() / (mask | triangle).sum() > 0.9


@pytest.mark.slow
def test_a_fresh_comfyui_lists_it(comfy_server):
    choices = comfy_server.get("/object_info/LoadImage")["LoadImage"]["input"]["required"]["image"]
    listed = choices[0] if isinstance(choices[0], list) else choices[1]["options"]
    assert {picture.name for picture in PICTURES} <= set(listed)


def test_every_picture_that_a_workflow_loads_comes_along_and_no_other():
    loaded = {
        node["inputs"]["image"]
        for path in (EXAMPLE.parent / "api").glob("*.json")
        for node in json.loads(path.read_text(encoding="utf-8")).values()
        if node["class_type"] in ("LoadImage", "LoadImageMask")
    }
    assert loaded == {picture.name for picture in PICTURES}


def test_the_photograph_is_small_and_is_the_one_its_licence_is_told_of():
    from regionstyle.nodes.tinyworld.backgrounds import photograph

    with Image.open(PHOTO) as picture:
        assert max(picture.size) <= 512
        assert np.abs(np.asarray(picture) / 255 - photograph("chelsea.png")).mean() < 0.02
    assert PHOTO.stat().st_size < 150_000
    page = EXAMPLE.parents[1] / "nodes" / "web" / "docs" / "RegionStyleTinyWorldLoader" / "en.md"
    assert "Stefan van der Walt, CC0" in page.read_text(encoding="utf-8")
