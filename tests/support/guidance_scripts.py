"""What the scripts that guide ComfyUI's samplers share; follows `family_scripts.MODELS`."""

from family_scripts import MODELS

GUIDED = (
    MODELS
    + """
import comfy.sample, comfy.samplers
import comfy.model_management as management
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.engine.region.regions import Regions
from regionstyle.nodes.sampler.comfy import guidance as comfy_guidance
from regionstyle.nodes.sampler.settings import GuidanceSettings

WORDS = ["a", "red", "star", "in", "mosaic", "style", "and", "a", "blue", "ring"]
SIZE = (10, 14)

def prompt_text(family, seed=0):
    # The words of a prompt over a family's random conditioning.
    length = COMFY_SHAPES[family][0]
    native = family_conditioning(family, seed)
    pieces = ["<start>", *(word + "</w>" for word in WORDS)] + ["<end>"] * (length - len(WORDS) - 1)
    valid = torch.tensor([[0 < at <= len(WORDS) for at in range(length)]])
    return Text(native[0][0], native[0][1]["pooled_output"], [[0] * length], [pieces], valid, [native])

def square(top=0, left=0, height=40, width=56):
    mask = torch.zeros(80, 112)
    mask[top:top + height, left:left + width] = 1
    return mask

def regions_of(*items):
    return Regions(tuple(Region(p, (0, 0, 1, 1), m, s) for p, s, m in items), 80, 112)

TWO = (("red star", "mosaic", square()), ("blue ring", "", square(40, 56)))

def guided(family, model, regions=None, prompt=None, **settings):
    # As the node does, over random encoded words.
    texts = {}
    def encode(clip, prompts):
        (words,) = prompts
        return texts.setdefault(words, prompt_text(family, seed=len(texts)))
    before, comfy_guidance.encode_prompts = comfy_guidance.encode_prompts, encode
    try:
        chosen = GuidanceSettings(**settings)
        return comfy_guidance.guide_model(
            model, None, prompt or "a prompt", regions or regions_of(*TWO), chosen, RECORDS.append)
    finally:
        comfy_guidance.encode_prompts = before

RECORDS = []

def sample(family, model, positive=None, steps=4, cfg=3.0, batch=1, sampler="euler", latent=None, size=SIZE, seed=0,
           **options):
    channels = COMFY_SHAPES[family][3]
    RECORDS.clear()
    latent = torch.zeros(batch, channels, *size) if latent is None else latent
    return comfy.sample.sample(
        model, noise(batch, channels, *size, seed=seed), steps, cfg, sampler, "simple",
        positive or family_conditioning(family), family_conditioning(family, 1), latent, disable_pbar=True, seed=0,
        **options)
"""
)
