"""Which ComfyUI is used when several are possible, and by which Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from comfy_script import REPOSITORY
from regionstyle.nodes.app.cli import main as cli
from regionstyle.nodes.app.comfyui import install as comfy_install
from regionstyle.nodes.engine.errors import RegionStyleError


def make(folder: Path) -> Path:
    for part in ("main.py", "nodes.py", "execution.py", "comfy/sd.py"):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).touch()
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder and an empty current folder."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(comfy_install, "PACKAGE", tmp_path / "elsewhere" / "regionstyle")
    monkeypatch.chdir(here)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    return home


def test_each_place_in_its_order(home, tmp_path, monkeypatch):
    with pytest.raises(RegionStyleError, match="COMFYUI_PATH"):
        comfy_install.find_comfy()
    standard = make(home / "comfy" / "ComfyUI")
    assert comfy_install.find_comfy() == standard

    recent, default = make(tmp_path / "recent"), make(tmp_path / "default")
    config = home / ".config" / "comfy-cli" / "config.ini"
    config.parent.mkdir(parents=True)
    config.write_text(f"[DEFAULT]\nrecent_workspace = {recent}\n")
    assert comfy_install.find_comfy() == recent
    config.write_text(f"[DEFAULT]\nrecent_workspace = {recent}\ndefault_workspace = {default}\n")
    assert comfy_install.find_comfy() == default

    around = make(tmp_path / "around")
    (around / "output").mkdir()
    monkeypatch.chdir(around / "output")
    assert comfy_install.find_comfy() == around

    holder = make(tmp_path / "holder")
    monkeypatch.setattr(comfy_install, "PACKAGE", holder / "custom_nodes" / "any-name")
    assert comfy_install.find_comfy() == holder

    named = make(tmp_path / "named")
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    assert comfy_install.find_comfy() == named


def test_a_wrong_path_is_not_passed_over(home, tmp_path, monkeypatch):
    make(home / "comfy" / "ComfyUI")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nothing"))
    with pytest.raises(RegionStyleError, match=r"nothing is not a ComfyUI folder"):
        comfy_install.find_comfy()


def test_a_broken_configuration_of_comfy_cli_is_ignored(home):
    config = home / ".config" / "comfy-cli" / "config.ini"
    config.parent.mkdir(parents=True)
    config.write_text("no section\n")
    standard = make(home / "comfy" / "ComfyUI")
    assert comfy_install.find_comfy() == standard


def test_its_own_environment_before_ours(home, tmp_path, monkeypatch):
    comfy = make(tmp_path / "comfy")
    assert comfy_install.choose_python(comfy) == Path(sys.executable)
    own = comfy / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.touch()
    assert comfy_install.choose_python(comfy) == own
    monkeypatch.setenv("COMFYUI_PYTHON", "/somewhere/python")
    assert comfy_install.choose_python(comfy) == Path("/somewhere/python")


def make_importable(comfy: Path, requirement: str, nodes: str = "") -> Path:
    """A tree whose modules can be imported, with one requirement, and with `nodes` in its nodes.py."""
    make(comfy)
    (comfy / "requirements.txt").write_text(f"# what it needs\npytest>=1\n{requirement}\n\n#non essential:\nno-hat\n")
    for name in ("comfy/__init__.py", "utils/__init__.py", "utils/extra_config.py", "server.py"):
        (comfy / name).parent.mkdir(exist_ok=True)
        (comfy / name).touch()
    (comfy / "comfy" / "options.py").write_text("def enable_args_parsing(): pass\n")
    (comfy / "nodes.py").write_text(nodes)
    return comfy


def test_a_python_that_lacks_what_comfyui_needs_is_not_taken(home, tmp_path):
    comfy = make_importable(tmp_path / "comfy", "no-such-package", nodes="import no_such_package")
    with pytest.raises(RegionStyleError) as error:
        comfy_install.comfy_python(comfy)
    for words in (
        sys.executable,
        str(comfy),
        "No module named 'no_such_package'",
        "COMFYUI_PYTHON",
        "requirements.txt",
    ):
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_requirement_that_comfyui_works_without_is_no_hindrance(home, tmp_path):
    comfy = make_importable(tmp_path / "comfy", "no-such-package")
    python = Path(sys.executable)
    assert comfy_install.absent_requirements(python, comfy / "requirements.txt") == ("no-such-package",)
    assert comfy_install.comfy_python(comfy) == python


def test_where_all_requirements_are_there_nothing_is_imported(home, tmp_path):
    """Importing ComfyUI takes ten seconds, which a start does not spend twice."""
    comfy = make_importable(tmp_path / "comfy", "pip", nodes="raise RuntimeError('imported')")
    assert comfy_install.comfy_python(comfy) == Path(sys.executable)


def test_a_python_that_does_not_exist_is_named(home, tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PYTHON", "/no/such/python")
    comfy = make_importable(tmp_path / "comfy", "pip")
    with pytest.raises(RegionStyleError, match="/no/such/python cannot run .*: No such file or directory. Set COMFYUI"):
        comfy_install.comfy_python(comfy)


def test_run_says_in_one_sentence_that_no_python_fits(home, tmp_path, monkeypatch, capsys):
    comfy = make_importable(tmp_path / "comfy", "no-such-package", nodes="import no_such_package")
    monkeypatch.setenv("COMFYUI_PATH", str(comfy))
    workflow = tmp_path / "workflow.json"
    workflow.write_text('{"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}')
    assert cli.main(["run", str(workflow)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No module named 'no_such_package'. Set COMFYUI_PYTHON to" in line


@pytest.mark.parametrize("named", [False, True])
def test_tests_are_skipped_with_one_loud_line_unless_a_python_is_named(named, tmp_path):
    """The README's test command on a machine with a ComfyUI where comfy-cli puts it, and no Python that runs it."""
    comfy = make_importable(tmp_path / "comfy" / "ComfyUI", "no-such-package", nodes="import no_such_package")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("COMFYUI_", "PYTEST_"))}
    environment |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    environment |= {"COMFYUI_PYTHON": sys.executable} if named else {}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_node_signatures.py"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == (1 if named else 0), done.stdout
    assert "1 error" in done.stdout if named else "1 skipped" in done.stdout
    loud = [line for line in done.stdout.splitlines() if line.startswith("1 TESTS SKIPPED, NO COMFYUI")]
    assert len(loud) == (0 if named else 1)
    assert all(str(comfy) in line and "COMFYUI_PYTHON" in line for line in loud)
