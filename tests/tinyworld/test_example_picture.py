"""The workflows' picture comes to where Load Image lists it, and never over a file of the user's."""

import logging

import pytest

from regionstyle.nodes.tinyworld.example_picture import EXAMPLE, PASTE, put_example


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


@pytest.mark.slow
def test_a_fresh_comfyui_lists_it(comfy_server):
    choices = comfy_server.get("/object_info/LoadImage")["LoadImage"]["input"]["required"]["image"]
    listed = choices[0] if isinstance(choices[0], list) else choices[1]["options"]
    assert {EXAMPLE.name, PASTE.name} <= set(listed)
