"""What a style is called: its file's words, else its file's name without what tells how it was made."""

import pytest
import torch

from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.lora.style_words import full_name, name_words, words_of_style

LAYERS = {"a": LoraLayer(torch.zeros(1, 1), torch.zeros(1, 1))}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ghibli_style_offset_v4", "ghibli"),
        ("Studio Ghibli Style LoRA", "studio ghibli"),
        ("StudioGhibliStyle-v1.5", "studio ghibli"),
        ("watercolor-sdxl-rank16-000008", "watercolor"),
        ("pixel-art", "pixel art"),
        ("pixel_art_xl_v1.1", "pixel art"),
        ("oil paint (final)", "oil paint"),
        ("8bit", "8bit"),
        ("3d_render_style", "3d render"),
        ("1990s-anime", "1990s anime"),
        ("lora_v2", "lora v2"),
        ("v12", "v12"),
        ("---", "---"),
        ("\u6c34\u5f69_v3", "\u6c34\u5f69"),
    ],
)
def test_names_without_versions_and_fillers(name, words):
    assert name_words(name) == words


@pytest.mark.parametrize(
    ("style", "trigger", "words"),
    [
        ("oil paint", "ghibli", "oil paint"),
        ("", "Ghibli Style, studio ghibli", "ghibli"),
        ("", "style", "style"),
        ("", "a picture of a house by the sea at noon", "ab"),
        ("", "", "ab"),
    ],
)
def test_the_file_goes_before_its_name(style, trigger, words):
    expert = Expert("ab_v2", LAYERS, style, {"modelspec.trigger_phrase": trigger})
    assert words_of_style(expert) == words


def test_full_names_keep_versions():
    assert (full_name("ghibli_style_v1"), full_name("ghibli_style_v2")) == ("ghibli style v1", "ghibli style v2")
