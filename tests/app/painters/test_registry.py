"""Painters by name: a module in the folder is all that a new one needs."""

import importlib

import pytest

from regionstyle.nodes.app.edit import EditSettings
from regionstyle.nodes.app.painters.registry import PAINTERS, PainterContext, all_painters, painter, painter_named
from regionstyle.nodes.engine.errors import RegionStyleError


def test_every_module_of_the_folder_registers():
    assert {"automatic", "expert", "generator"} <= set(all_painters())


def test_a_new_module_brings_its_painter_without_any_other_change(monkeypatch, tmp_path):
    package = importlib.import_module("regionstyle.nodes.app.painters")
    (tmp_path / "brush.py").write_text(
        "from regionstyle.nodes.app.painters.registry import painter\n"
        "@painter('brush')\ndef brush(context):\n    return 'a brush'\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setattr("regionstyle.nodes.app.painters.registry.PAINTERS", dict(PAINTERS))
    assert painter_named("brush", PainterContext(None, EditSettings())) == "a brush"


def test_an_unknown_name_lists_the_others():
    with pytest.raises(RegionStyleError, match=r"painter: got 'broom'.*expert, generator"):
        painter_named("broom", PainterContext(None, EditSettings()))


def test_a_name_is_taken_once():
    all_painters()
    with pytest.raises(ValueError, match="already registered"):
        painter("expert")(lambda context: None)


def test_a_generator_needs_a_name():
    with pytest.raises(RegionStyleError, match="generator: got nothing"):
        painter_named("generator", PainterContext(None, EditSettings()))
