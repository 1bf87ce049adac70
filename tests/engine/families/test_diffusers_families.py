"""Every family on the diffusers host: what its network is told, its text encoders, what is refused."""

from dataclasses import replace

import pytest
import torch
from family_models import diffusers_network, diffusers_scheduler, family_inputs
from family_text import clip_tower, t5_tower, t5_words

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.families.registry import families
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.predictor.base import Extras, Text
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor
from regionstyle.nodes.engine.predictor.tokens import find_phrase


class Vae(torch.nn.Module):
    class config:
        block_out_channels = (1, 2, 3, 4)


def predictor_of(family, encoders=None, tokenizers=None):
    network, scheduler = diffusers_network(family), diffusers_scheduler(family)
    return DiffusersPredictor(network, Vae(), encoders, tokenizers, scheduler, LocalHost("cpu"))


def text_of(states, pooled):
    rows = [[0] * states.shape[1]] * len(states), [[""] * states.shape[1]] * len(states)
    return Text(states, pooled, *rows, torch.ones(states.shape[:2], dtype=torch.bool))


@pytest.fixture(scope="module")
def predictors():
    made = {}
    return lambda family: made.setdefault(family, predictor_of(family))


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "sd35", "flux", "schnell"])
def test_one_call_per_family(predictors, family):
    """Prediction and noise agree with x, one prompt serves all images, and a pair equals two calls."""
    predictor = predictors(family)
    x, states, pooled = family_inputs(family, size=(10, 14) if family.startswith("sd") else (9, 13))
    both = text_of(states, pooled)
    one, two = (text_of(states[at : at + 1], pooled[at : at + 1]) for at in (0, 1))
    result = predictor.predict(x, 0.4, both)
    assert result.eps.shape == result.denoised.shape == x.shape
    assert torch.allclose(predictor.add_noise(result.denoised, result.eps, 0.4), x, atol=1e-5)
    for at, text in enumerate((one, two)):
        assert torch.allclose(predictor.predict(x, 0.4, text).eps[at], result.eps[at], atol=1e-4)
    pair = predictor.predict_pair(x, torch.tensor([0.4, 0.4]), one, two)
    assert torch.allclose(pair[0].eps[0], result.eps[0], atol=1e-4)
    assert torch.allclose(pair[1].eps[1], result.eps[1], atol=1e-4)
    assert not torch.allclose(pair[0].eps, pair[1].eps, atol=1e-2)
    assert predictor.latent_channels == x.shape[1]


def test_one_family_accepts_a_network(predictors):
    names = ("sd", "sdxl", "sd3", "sd35", "flux", "schnell")
    accepted = [[f.name for f in families() if f.accepts(predictors(name).network)] for name in names]
    assert accepted == [["SD1.5"], ["SDXL"], ["SD3"], ["SD3"], ["FLUX"], ["FLUX"]]


def test_networks_of_another_kind_are_refused():
    from diffusers import UNet2DModel

    kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=16, block_out_channels=(32, 32), layers_per_block=1, **kinds)
    for network, said in ((unet, "UNet2DModel, without text"), (torch.nn.Linear(2, 2), "Linear, of another family")):
        with pytest.raises(RegionStyleError, match=f"unet: got {said}"):
            DiffusersPredictor(network, Vae(), None, None, diffusers_scheduler("sd"), LocalHost("cpu"))


def test_native_sizes(predictors):
    assert [predictors(family).native_size for family in ("sd", "sdxl", "sd3", "flux")] == [128, 128, 128, 1024]


def test_sdxl_is_told_pooled_text_and_sizes(predictors):
    """As diffusers' pipeline: original, crop, target, heights first; by default the picture itself, uncropped."""
    predictor = predictors("sdxl")
    x, states, pooled = family_inputs("sdxl", size=(8, 12))
    text, seen = text_of(states, pooled), []
    network, forward = predictor.unet, predictor.unet.forward
    network.forward = lambda *args, **options: seen.append(options["added_cond_kwargs"]) or forward(*args, **options)
    try:
        default = predictor.predict(x, 0.5, text)
        told = predictor.predict(x, 0.5, replace(text, extras=Extras(None, (512, 768), (16, 32), (640, 896))))
        partly = predictor.predict(x, 0.5, replace(text, extras=Extras(original=(512, 768))))
    finally:
        del network.forward
    assert [s["time_ids"].tolist()[1] for s in seen] == [
        [64, 96, 0, 0, 64, 96], [512, 768, 16, 32, 640, 896], [512, 768, 0, 0, 512, 768],
    ]  # fmt: skip
    assert all(torch.equal(s["text_embeds"], pooled) for s in seen)
    assert len({round(float(r.eps.sum()), 4) for r in (default, told, partly)}) == 3


def test_guidance_is_told_to_networks_distilled_with_it(predictors):
    x, states, pooled = family_inputs("flux")
    text = text_of(states, pooled)
    default, usual, other = (
        predictors("flux").predict(x, 0.5, replace(text, extras=Extras(guidance=g))).eps for g in (None, 3.5, 2.0)
    )
    assert torch.equal(default, usual)
    assert not torch.allclose(usual, other, atol=1e-3)


@pytest.mark.parametrize(
    ("family", "extras", "words"),
    [
        ("sd", Extras(guidance=2.0), "guidance, expected none"),
        ("schnell", Extras(guidance=2.0), "guidance, expected none"),
        ("flux", Extras(guidance=2.0, crop=(1, 2)), "crop, expected only guidance"),
        ("sdxl", Extras(guidance=2.0), "guidance, expected only original"),
    ],
)
def test_what_a_network_would_not_read_is_refused(predictors, family, extras, words):
    x, states, pooled = family_inputs(family)
    with pytest.raises(RegionStyleError, match=words):
        predictors(family).predict(x, 0.5, replace(text_of(states, pooled), extras=extras))


def test_extras_stay_with_their_prompts():
    text = text_of(torch.zeros(1, 5, 3), torch.zeros(1, 2))
    told = replace(text, extras=Extras(guidance=2.0))
    assert told.repeat(3).extras == (told + told).extras == Extras(guidance=2.0)
    with pytest.raises(RegionStyleError, match="text.extras"):
        text + told


def test_pooled_text_is_needed_and_must_fit(predictors):
    x, states, pooled = family_inputs("sdxl")
    with pytest.raises(RegionStyleError, match="text.pooled: got nothing"):
        predictors("sdxl").predict(x, 0.5, text_of(states, None))
    with pytest.raises(RegionStyleError, match=r"\[2, 9\], expected \[B, 64\]"):
        predictors("sdxl").predict(x, 0.5, text_of(states, pooled[:, :9]))


def test_wrong_schedulers_are_refused():
    for family, other in (("flux", "sd"), ("sd", "flux")):
        network = diffusers_network(family)
        with pytest.raises(RegionStyleError, match="scheduler"):
            DiffusersPredictor(network, Vae(), None, None, diffusers_scheduler(other), LocalHost("cpu"))


PROMPTS = ["a red cat on a mat", "a hairdryer"]


@pytest.fixture(scope="module")
def towers():
    from regionstyle.nodes.tinyworld.tokenizer import load_tokenizer

    torch.manual_seed(0)
    words, t5 = load_tokenizer(), t5_words()
    return {
        "words": words, "t5 words": t5, "l": clip_tower(24, None, words), "l projected": clip_tower(24, 10, words),
        "g": clip_tower(40, 64, words), "t5": t5_tower(64, t5),
    }  # fmt: skip


def hidden(tower, words, layer=-2):
    ids = words(PROMPTS, padding="max_length", max_length=77, return_tensors="pt").input_ids
    output = tower(ids, output_hidden_states=True)
    return output.hidden_states[layer], getattr(output, "text_embeds", None), output.pooler_output \
        if hasattr(output, "pooler_output") else None  # fmt: skip


def test_sdxl_text(towers):
    words = towers["words"]
    text = predictor_of("sdxl", (towers["l"], towers["g"]), (words, words)).encode_text(PROMPTS)
    (first, _, _), (second, pooled, _) = hidden(towers["l"], words), hidden(towers["g"], words)
    assert torch.equal(text.states, torch.cat([first, second], -1))
    assert torch.equal(text.pooled, pooled)
    assert find_phrase(text, "red cat") == [2, 3]


def test_flux_text(towers):
    words, t5 = towers["words"], towers["t5 words"]
    predictor = predictor_of("flux", (towers["l"], towers["t5"]), (words, t5))
    text = predictor.encode_text(PROMPTS)
    ids = t5(PROMPTS, padding="max_length", max_length=16, return_tensors="pt").input_ids
    assert torch.equal(text.states, towers["t5"](ids).last_hidden_state)
    assert torch.equal(text.pooled, hidden(towers["l"], words)[2])
    assert text.valid.sum(1).tolist() == [6, 3]
    assert find_phrase(text, "red cat") == [1, 2]
    assert find_phrase(text, "hairdryer", 1) == [1, 2]
    with pytest.raises(RegionStyleError, match="16 tokens.*at most 15"):
        predictor.encode_text([" ".join(["cat"] * 16)])


def test_sd3_text(towers):
    words, t5 = towers["words"], towers["t5 words"]
    encoders = towers["l projected"], towers["g"], towers["t5"]
    text = predictor_of("sd3", encoders, (words, words, t5)).encode_text(PROMPTS)
    (first, one, _), (second, two, _) = hidden(encoders[0], words), hidden(encoders[1], words)
    assert text.states.shape == (2, 77 + 16, 64)
    assert torch.equal(text.states[:, :77], torch.cat([first, second], -1))
    assert torch.equal(text.pooled, torch.cat([one, two], -1))
    assert len(text.ids[0]) == text.valid.shape[1] == 93
    assert text.valid[:, 77:].sum(1).tolist() == [6, 3]


def test_the_number_of_encoders_is_checked(towers):
    words = towers["words"]
    predictor = predictor_of("flux", towers["l"], words)
    with pytest.raises(RegionStyleError, match="1 text encoders.*2 of each: CLIP-L and T5"):
        predictor.encode_text(PROMPTS)
