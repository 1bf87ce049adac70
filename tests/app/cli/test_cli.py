"""The command line itself: arguments, errors in one line, exit codes. The commands are stand-ins here."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from regionstyle.nodes.app.cli import main as cli


@pytest.fixture
def command(monkeypatch):
    """`command("demo", function)`: put a stand-in behind one command."""

    def replace(name, function):
        module, attribute = cli._COMMANDS[name]
        stand_in = types.ModuleType("stand_in")
        setattr(stand_in, attribute, function)
        full = f"{cli.__package__}{module}"
        monkeypatch.setitem(sys.modules, full, stand_in)

    return replace


def run(argv, capsys):
    """Exit code and the lines on stderr; nothing may appear on stdout."""
    try:
        code = cli.main(argv)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err.splitlines()


def raising(error):
    def function(args):
        raise error

    return function


def test_arguments_reach_the_command(command):
    seen = {}
    command("stylize", lambda args: seen.update(vars(args)) or 0)
    line = ["stylize", "in.png", "make the cat pencil", "-o", "out.png", "--box", "1,2,30,40", "--strength", "0.5"]
    assert cli.main(line) == 0
    assert seen["image"] == Path("in.png")
    assert seen["output"] == Path("out.png")
    assert seen["box"] == (1, 2, 30, 40)
    assert seen["strength"] == 0.5
    assert seen["model"] == "tinyworld"
    assert seen["whole"] is False
    assert [seen[name] for name in ("mask", "style", "expert", "steps")] == [None] * 4


def test_the_exit_code_of_the_command_is_returned(command):
    command("demo", lambda args: 7)
    assert cli.main(["demo", "--seed", "3", "--scene", "4", "--style", "pencil sketch", "--out", "x"]) == 7


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "COMMAND"),
        (["paint"], "paint"),
        (["demo", "--seed", "many"], "--seed"),
        (["stylize", "a.png"], "PROMPT"),
        (["stylize", "a.png", "make it red"], "-o"),
        (["stylize", "a.png", "p", "-o", "b.png", "--box", "1,2,3"], "x0,y0,x1,y1"),
        (["stylize", "a.png", "p", "-o", "b.png", "--box", "5,2,3,9"], "x1 must be larger"),
        (["stylize", "a.png", "p", "-o", "b.png", "--whole", "--box", "1,2,3,4"], "not allowed with"),
        (["stylize", "a.png", "p", "-o", "b.png", "--strength", "1.5"], "from 0 to 1"),
        (["stylize", "a.png", "p", "-o", "b.png", "--strength", "nan"], "from 0 to 1"),
        (["stylize", "a.png", "p", "-o", "b.png", "--steps", "0"], "from 1 to 1000"),
        (["run", "w.json", "--set", "seed"], "NAME=VALUE"),
        (["run", "w.json", "--input", "=file"], "NAME=VALUE"),
        (["train", "tinyworld"], "--time-budget"),
        (["train", "tinyworld", "--time-budget", "inf"], "minutes"),
        (["train", "moon", "--time-budget", "1"], "tinyworld"),
        (["demo", "--device", "toaster"], "cuda"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(argv, part, capsys):
    code, lines = run(argv, capsys)
    assert code == 2
    assert len(lines) == 1
    assert part in lines[0]
    assert "--help" in lines[0]


def test_user_errors_are_one_line(command, capsys):
    from regionstyle.nodes.engine.errors import RegionStyleError

    command("demo", raising(RegionStyleError("style 'oil':\n  unknown. Choose pencil.")))
    code, lines = run(["demo"], capsys)
    assert code == 2
    assert lines == ["regionstyle: style 'oil': unknown. Choose pencil."]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError(2, "No such file or directory", "missing.png"), "missing.png: there is no such file"),
        (PermissionError(13, "Permission denied", "out.png"), "out.png: no permission"),
        (IsADirectoryError(21, "Is a directory", "folder"), "folder: this is a folder"),
        (OSError("cannot identify image file 'a.txt'"), "cannot identify image file"),
        (ModuleNotFoundError("No module named 'diffusers'", name="diffusers"), "pip install diffusers"),
    ],
)
def test_files_and_packages_that_are_missing(command, capsys, error, expected):
    command("demo", raising(error))
    code, lines = run(["demo"], capsys)
    assert code == 2
    assert len(lines) == 1
    assert expected in lines[0]


def test_ctrl_c_is_130(command, capsys):
    command("demo", raising(KeyboardInterrupt()))
    code, lines = run(["demo"], capsys)
    assert code == 130
    assert len(lines) == 1


def test_a_fault_of_the_program_is_told_apart(command, capsys):
    command("demo", raising(ZeroDivisionError("division by zero")))
    code, lines = run(["demo"], capsys)
    assert code == 1
    assert len(lines) == 1
    assert "--verbose" in lines[0]


def test_verbose_shows_the_traceback(command, capsys):
    command("demo", raising(ZeroDivisionError("division by zero")))
    code, lines = run(["demo", "--verbose"], capsys)
    assert code == 1
    assert any("Traceback" in line for line in lines)


@pytest.mark.parametrize("command_name", sorted(cli._COMMANDS))
def test_every_command_has_help(command_name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command_name.split(), "--help"])
    assert stop.value.code == 0
    assert command_name in capsys.readouterr().out


def test_version(capsys):
    import regionstyle

    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"regionstyle {regionstyle.__version__}\n"


def test_help_imports_nothing_heavy():
    program = """
import sys
from regionstyle.nodes.app.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"torch", "numpy", "PIL", "diffusers", "transformers", "aiohttp", "tqdm"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage: regionstyle" in done.stdout
