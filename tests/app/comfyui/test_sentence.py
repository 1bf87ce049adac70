"""Restyling by a sentence over ComfyUI's objects: which strength a style is restyled with."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from regionstyle.nodes.app.comfyui import sentence as comfy_sentence
from regionstyle.nodes.app.comfyui.sentence import for_style
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.lora.expert import LoraLayer
from regionstyle.nodes.router.settings import RestyleSettings
from regionstyle.nodes.tinyworld.bundled import STRENGTHS, load_bundled_expert


def test_strength_0_is_what_the_style_itself_wants():
    usual, own = RestyleSettings(strength=0.4), RestyleSettings(strength=0.0)
    assert for_style(usual, "neon", {"neon": 0.75}) == usual
    assert for_style(own, "Neon", {"neon": 0.75}) == RestyleSettings(strength=0.75)
    for style, known in (("neon", {"neon": None}), ("anime", {})):
        with pytest.raises(RegionStyleError, match=f"strength: got 0 for the style '{style}'"):
            for_style(own, style, known)


def test_where_a_style_says_its_strength(monkeypatch):
    """In the file's metadata, or for a shipped expert in the tiny world; a namesake with other weights says nothing."""
    neon = load_bundled_expert("neon")
    path, layer = next(iter(neon.layers.items()))
    other = replace(neon, layers={path: LoraLayer(layer.down + 1, layer.up)})
    told = replace(other, style="", name="van-gogh", metadata={"regionstyle_strength": "0.5"})

    def strengths(*experts):
        monkeypatch.setattr(
            comfy_sentence, "attached_experts", lambda model: [SimpleNamespace(source=e) for e in experts]
        )
        return comfy_sentence.own_strengths(None)

    own = {"neon": STRENGTHS["neon"], "mosaic": STRENGTHS["mosaic"], "van gogh": 0.5}
    assert strengths(neon, load_bundled_expert("mosaic"), told) == own
    assert strengths(other) == {"neon": None}
    with pytest.raises(RegionStyleError, match="regionstyle_strength of 'van-gogh': got '7'"):
        strengths(replace(told, metadata={"regionstyle_strength": "7"}))


def test_what_sentences_call_an_experts_style(monkeypatch):
    """Words of the file, else of its name; names that come down to one word keep their versions, so all are listed."""
    neon = replace(load_bundled_expert("neon"), metadata={})

    def styles(*experts):
        monkeypatch.setattr(
            comfy_sentence, "attached_experts", lambda model: [SimpleNamespace(source=e) for e in experts]
        )
        return comfy_sentence.expert_styles(None)

    v1, v2 = (replace(neon, style="", name=f"ghibli_style_{version}") for version in ("v1", "v2"))
    told = replace(neon, style="Ghibli", name="other")
    assert styles(v1) == {"ghibli": ["ghibli_style_v1"]}
    assert styles(v1, v2) == {"ghibli style v1": ["ghibli_style_v1"], "ghibli style v2": ["ghibli_style_v2"]}
    assert styles(v1, told) == {"ghibli style v1": ["ghibli_style_v1"], "ghibli": ["other"]}
    assert styles(neon, told) == {"neon": [neon.name], "ghibli": ["other"]}
