"""Phrases in the tokens of ComfyUI's own tokenizers: CLIP-L, CLIP-G and T5, weights included, and the tiny world's.

Only the encoders are left out: a prompt's positions come from its tokens.
"""

import pytest

from comfy_script import each_once

pytestmark = pytest.mark.slow

SCRIPT = """
import torch
from regionstyle.nodes.engine.predictor.comfy_text import encode_prompts
from regionstyle.nodes.engine.predictor.tokens import find_tokens, shown_tokens
from regionstyle.nodes.engine.families.registry import comfy_text_layout

class Tokens:
    # A CLIP of which only the tokenizer is needed.
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
    def tokenize(self, text, return_word_ids=False):
        return self.tokenizer.tokenize_with_weights(text, return_word_ids)
    def encode_from_tokens_scheduled(self, tokens):
        length = sum(len(chunk) for name in comfy_text_layout(tuple(sorted(tokens))) for chunk in tokens[name])
        return [[torch.zeros(1, length, 4), {"pooled_output": torch.zeros(1, 4)}]]

def tokenizers():
    from comfy.sd1_clip import SD1Tokenizer
    from comfy.sdxl_clip import SDXLTokenizer
    from comfy.text_encoders.flux import FluxTokenizer
    from comfy.text_encoders.sd3_clip import SD3Tokenizer
    from regionstyle.nodes.tinyworld.comfy_tinyworld import _tokenizer_class
    return {"sd": SD1Tokenizer, "sdxl": SDXLTokenizer, "sd3": SD3Tokenizer, "flux": FluxTokenizer,
            "tiny": _tokenizer_class()}

def pieces(clip, prompt, phrase):
    text = encode_prompts(clip, [prompt])
    return ["".join(text.pieces[0][at]).replace("</w>", "").replace("\\u2581", "") for at in find_tokens(text, phrase)]

def absent(clip):
    try:
        find_tokens(encode_prompts(clip, ["a red star"]), "green cat")
    except ValueError as error:
        return str(error)

out = {}
for name, make in tokenizers().items():
    clip = Tokens(make())
    out[name] = {
        "plain": pieces(clip, "a red star in mosaic style", "red star"),
        "weighted": pieces(clip, "a (red star:1.3) in (mosaic:0.8) style", "Red Star"),
        "across": pieces(clip, "a red (star:1.2) in mosaic style", "red star"),
        "given with weights": pieces(clip, "a (mosaic:1.2) star", "(mosaic:1.2)"),
        "absent": absent(clip),
    }
    if name != "tiny":
        styles = ("cyberpunk", "expressionism", "line-art", "pixel-art")
        out[name]["styles"] = [len(pieces(clip, f"make the man in {s} style", s)) for s in styles]
        long = "word " * 100 + "a hairdryer"
        out[name]["long"] = "".join(pieces(clip, long, "hairdryer"))
print(json.dumps(out))
"""


@pytest.fixture(scope="module", params=["run_in_comfy", "run_in_old_comfy"])
def run(request):
    return each_once(request.getfixturevalue(request.param))


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "tiny"])
def test_phrases_are_found_weights_or_not(run, name):
    found = run(SCRIPT)[name]
    twice = 2 if name == "sd3" else 1  # of CLIP and of T5
    assert found["plain"] == ["red", "star"] * twice
    assert found["weighted"] == found["across"] == found["plain"]
    assert "".join(found["given with weights"]) == "mosaic" * twice
    assert "green cat" in found["absent"]
    assert "red star" in found["absent"]


def test_the_published_styles_have_their_numbers_of_tokens(run):
    assert run(SCRIPT)["flux"]["styles"] == [3, 2, 3, 4]  # T5


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux"])
def test_words_behind_the_first_chunk_are_found(run, name):
    assert run(SCRIPT)[name]["long"] == "hairdryer"
