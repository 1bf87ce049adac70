"""What commands write to is asked before their work, and what they print does not fail it."""

import os
import subprocess
import sys

import pytest

from regionstyle.nodes.app.cli import main as cli
from regionstyle.nodes.app.files import LONGEST_NAME, check_file, check_folder
from regionstyle.nodes.engine.errors import RegionStyleError

UNWRITABLE = "/proc/regionstyle"  # root may write everywhere else
LINES = {
    "run": ["run", "none.json", "--out"],
    "demo": ["demo", "--out"],
    "report": ["report", "--out"],
    "stylize": ["stylize", "none.png", "make the dog neon", "-o"],
    "find": ["find", "none.png", "dog", "-o"],
    "train style": ["train", "style", "--images", "none", "--style", "neon", "-o"],
}


@pytest.mark.parametrize("command", LINES)
def test_a_name_that_is_too_long_is_refused_first(command, tmp_path, capsys):
    assert cli.main([*LINES[command], str(tmp_path / ("x" * (LONGEST_NAME + 1)))]) == 2
    error = capsys.readouterr().err
    assert "a name of 251 bytes" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("command", ["run", "demo", "report", "find"])
def test_a_file_where_a_folder_is_needed_is_refused_first(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main([*LINES[command], str(tmp_path / "file" / "deep")]) == 2
    assert "which is a file, expected a folder" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a place that nobody can write is known on Linux only")
@pytest.mark.parametrize("command", LINES)
def test_a_place_that_cannot_be_written_is_refused_first(command, capsys):
    assert cli.main([*LINES[command], f"{UNWRITABLE}/out.png"]) == 2
    assert "expected a place that can be written" in capsys.readouterr().err


def test_a_folder_where_a_file_is_needed(tmp_path):
    with pytest.raises(RegionStyleError, match="which is a folder, expected the name of a file"):
        check_file("--output", tmp_path)


def test_a_place_that_is_good_is_left_alone(tmp_path):
    check_folder("--out", tmp_path / "a" / "b")
    check_file("--output", tmp_path / "a" / ("x" * LONGEST_NAME))
    assert list(tmp_path.iterdir()) == []


def test_a_console_that_cannot_print_a_name_fails_nothing(tmp_path):
    """As on Windows, whose code pages lack most signs."""
    code = "import sys; from regionstyle.nodes.app.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, "run", str(tmp_path / "Café 猫.json")]
    run = subprocess.run(command, env=environment, capture_output=True, cwd=tmp_path)
    assert run.returncode == 2
    assert b"Caf\\xe9 \\u732b.json: there is no such file" in run.stderr


def test_the_demos_scene_is_no_negative_number(tmp_path, capsys):
    assert cli.main(["demo", "--scene", "-1", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "regionstyle: scene: got -1, expected a whole number, 0 or more. Leave it out for the demo's own.\n"
    )
