"""Text and images of ComfyUI's tiny random models, inside ComfyUI's interpreter, in inference mode as in nodes.

Each script starts with `comfy_models.py` and ends in one line of JSON: numbers and messages that the tests judge.
"""

from pathlib import Path

import pytest

from comfy_script import each_once

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()
VERSIONS = ["run_in_comfy", "run_in_old_comfy"]

TEXT_AND_IMAGES = """
from regionstyle.nodes.engine.predictor.tokens import find_phrase

with torch.inference_mode():
    model, clip, vae = sd_model(), sd_clip(), sd_vae()
    predictor = ComfyPredictor(model, clip, vae, ComfyHost())
    prompt = "a (red cat:1.3) on a mat, with a hairdryer"
    text = predictor.encode_text([prompt])
    direct = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    long = predictor.encode_text([" ".join(["tree"] * 90) + " and a red cat"])
    two = predictor.encode_text(["a cat", "a red dog"])
    out = {
        "states": far(text.states, direct[0][0]), "shape": list(text.states.shape), "pieces": text.pieces[0][:14],
        "valid": text.valid[0].nonzero().flatten().tolist(), "cat": find_phrase(text, "red cat"),
        "dryer": find_phrase(text, "hairdryer"), "absent": message(find_phrase, text, "dog"),
        "ids": text.ids[0][:4] == [entry[0] for entry in clip.tokenize(prompt)["l"][0]][:4],
        "long": [list(long.states.shape), find_phrase(long, "red cat"), int(long.valid.sum())],
        "two": [list(two.states.shape), find_phrase(two, "dog", 1), len(two.native)],
        "unequal": message(predictor.encode_text, ["a cat", "tree " * 90]),
    }
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    latents = predictor.encode(images)
    plain = vae.encode(images.movedim(1, -1))
    decoded = predictor.decode(latents)
    out["latents"] = [list(latents.shape), far(latents, plain * 0.18215), float(latents.std())]
    out["decoded"] = [list(decoded.shape), far(decoded, vae.decode(plain).movedim(-1, 1)), float(decoded.std()),
                      float(decoded.min()), float(decoded.max())]
    out["odd"] = message(predictor.encode, torch.rand(1, 3, 60, 96))
    out["again"] = far(latents, predictor.encode(images))
    # Decoding between two predictions, inside one block, changes nothing.
    x = noise(2, 4, 8, 12)
    with predictor.loaded():
        first = predictor.predict(x, 0.4, two).eps
        predictor.decode(latents)
        out["between"] = far(first, predictor.predict(x, 0.4, two).eps)
print(json.dumps(out))
"""


@pytest.fixture(scope="module", params=VERSIONS)
def run(request):
    """`run(script)`: its result, in the new and the old ComfyUI."""
    return each_once(request.getfixturevalue(request.param), MODELS)


def test_text(run):
    found = run(TEXT_AND_IMAGES)
    assert found["states"] == 0
    assert found["shape"] == [1, 77, 64]
    words = [
        "a</w>",
        "red</w>",
        "cat</w>",
        "on</w>",
        "a</w>",
        "mat</w>",
        ",</w>",
        "with</w>",
        "a</w>",
        "hair",
        "dryer</w>",
    ]
    assert found["pieces"] == ["<|startoftext|>", *words, "<|endoftext|>", "<|endoftext|>"]
    assert found["valid"] == list(range(1, 12))
    assert found["ids"]
    assert found["cat"] == [2, 3]
    assert found["dryer"] == [10, 11]
    assert "a red cat on a mat" in found["absent"]
    assert found["two"] == [[2, 77, 64], [3], 2]
    assert "one by one" in found["unequal"]


def test_long_prompts_take_chunks(run):
    """75 words in the first chunk, then start and end tokens, which are no words."""
    shape, positions, words = run(TEXT_AND_IMAGES)["long"]
    assert shape == [1, 154, 64]
    assert positions == [77 + 1 + 15 + 2, 77 + 1 + 15 + 3]
    assert words == 94


def test_images(run):
    found = run(TEXT_AND_IMAGES)
    shape, difference, spread = found["latents"]
    assert shape == [2, 4, 8, 12]
    assert difference < 1e-6
    assert spread > 1e-3
    shape, difference, spread, low, high = found["decoded"]
    assert shape == [2, 3, 64, 96]
    assert difference < 1e-5
    assert spread > 1e-3
    assert 0 <= low <= high <= 1
    assert "multiples of 8" in found["odd"]
    assert found["again"] == found["between"] == 0
