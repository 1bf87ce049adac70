"""Words and names given to nodes: signs of other programs and half characters end in errors that can be printed."""

from pathlib import Path

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.region.regions import Regions, region_of
from regionstyle.nodes.grounding.comfy.attention import find_in_batch
from regionstyle.nodes.grounding.comfy.grounding import BoxRequest
from regionstyle.nodes.grounding.comfy.regions import _inside, regions_from_mask
from regionstyle.nodes.grounding.finders.vlm import ask
from regionstyle.nodes.grounding.masks.composition import with_background
from regionstyle.nodes.grounding.settings import AttentionSettings

MASK = torch.ones(1, 8, 8)


def find(phrase: str = "cat", caption: str = "") -> None:
    find_in_batch(None, None, None, torch.rand(1, 8, 8, 3), phrase, caption, AttentionSettings(), False)


CALLS = {
    "Find by Attention": (find, "phrase"),
    "Mask to Regions": (lambda words: regions_from_mask(MASK, words, "", None), "phrase"),
    "Mask to Regions, style": (lambda words: regions_from_mask(MASK, "cat", words, None), "style"),
    "background": (lambda words: with_background(Regions((region_of("cat", MASK[0]),), 8, 8), words), "style"),
    "Segment Boxes": (lambda words: BoxRequest(None, "", None, "", "", words).given((8, 8), 1), "phrase"),
    "Read Request with VLM": (lambda words: ask(None, MASK, words, None), "request"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("the (dog:1.3)", r"got '\(dog:1.3\)', a prompt weight of other programs"),
        ("dog <lora:x:1>", "got '<lora:x:1>', a tag that loads a file"),
        ("dog BREAK cat", "got 'BREAK', which divides prompts"),
        ("dog \ud83d", "got half of a character"),
    ],
)
def test_every_node_that_reads_words_names_what_are_none(call, words, message):
    read, name = CALLS[call]
    with pytest.raises(RegionStyleError, match=f"^{name}: {message}") as caught:
        read(words)
    assert str(caught.value).encode()


def test_a_caption_may_hold_weights_but_no_half_character():
    with pytest.raises(RegionStyleError, match="caption: got half of a character"):
        find(caption="a cat \ud83d")


@pytest.mark.parametrize("name", ["half\ud83d.json", "null\0.json", "x" * 201, "folder/" + "\u72d7" * 67 + ".json"])
def test_names_that_no_disk_can_hold_are_refused_in_a_message_that_can_be_printed(name, tmp_path: Path):
    with pytest.raises(RegionStyleError, match="file: got .*expected names of up to 200 bytes") as caught:
        _inside(tmp_path / name, tmp_path, "file")
    assert str(caught.value).encode()
    assert _inside(tmp_path / ("\u72d7" * 60), tmp_path, "file").parent == tmp_path
