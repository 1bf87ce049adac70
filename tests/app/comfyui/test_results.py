"""Files that a workflow made, on their way to the user's folder."""

from pathlib import Path

import pytest

from regionstyle.nodes.app.comfyui.results import Result, deliver, listed_files, listed_texts, safe_path


def entry(name, folder="", kind="output"):
    return {"filename": name, "subfolder": folder, "type": kind}


def test_files_are_listed_under_any_name():
    outputs = {
        "1": {"images": [entry("a.png"), entry("in.png", kind="input")], "animated": [False]},
        "2": {"audio": [entry("b.flac", kind="temp")], "text": ["some words"]},
        "3": {"latents": [entry("c.latent", "deep")], "result": [["x"], None, 3], "broken": [{"filename": None}]},
        "4": None,
    }
    assert [file["filename"] for file in listed_files(outputs)] == ["a.png", "b.flac", "c.latent"]
    assert list(listed_texts(outputs)) == [("2", "some words")]


@pytest.mark.parametrize(
    ("name", "folder", "path"),
    [
        ("a.png", "", "a.png"),
        ("a.png", "deep/er", "deep/er/a.png"),
        ("a.png", "..\\..\\up", "up/a.png"),
        ("../../a.png", "/etc", "etc/a.png"),
        ("C:a.png", None, "C_a.png"),
    ],
)
def test_no_path_leaves_the_folder(name, folder, path):
    assert safe_path(entry(name, folder)).as_posix() == path


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.html").write_text("old")
    results = [Result(Path("deep/a.html"), lambda place: place.write_text("new")) for _ in range(2)]
    written = [path.relative_to(tmp_path).as_posix() for path in deliver(results, tmp_path)]
    assert written == ["deep/a-2.html", "deep/a-3.html"]
    assert (tmp_path / "deep" / "a.html").read_text() == "old"
