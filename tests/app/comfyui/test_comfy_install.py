"""Which ComfyUI is used when several are possible."""

import sys
from pathlib import Path

import pytest

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
    assert comfy_install.comfy_python(comfy) == Path(sys.executable)
    own = comfy / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.touch()
    assert comfy_install.comfy_python(comfy) == own
    monkeypatch.setenv("COMFYUI_PYTHON", "/somewhere/python")
    assert comfy_install.comfy_python(comfy) == Path("/somewhere/python")
