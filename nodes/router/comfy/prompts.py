"""Regional prompts for a ComfyUI MODEL whose experts were routed by regions."""

from __future__ import annotations

from typing import Any

import torch

from ...engine.adapters.comfy import attach_to_comfy, attached_gates
from ...engine.errors import wrong_input
from ...engine.language.region_prompt import region_prompt
from ...engine.predictor.base import Text
from ...engine.predictor.comfy_text import encode_prompts
from ..gates.region_gates import RoutedStyle
from ..regional_prompts import apart, each_its_own, own_words, with_owners
from .routing import routed_styles


def regional_prompts(model: Any, clip: Any, prompt: str, template: str, mode: str) -> tuple[Any, Any, str]:
    """A clone of the MODEL that knows which tokens are whose, the CONDITIONING to use with it, and a line about them.

    mode: "own prompts", "own words" or "shared", see `regional_prompts.py`. A style whose expert is off, as none of its
    things was found or its strength is 0, has no words of its own, and where all are the prompt alone counts.
    RegionStyleError for a MODEL without experts routed by regions, a style the prompt lacks where it must have it, and
    a CLIP that gives more than one plain conditioning.
    """
    routed_before, gates = routed_styles(model), attached_gates(model)
    if not routed_before:
        remedy = "Connect Route Experts by Regions in front of this node."
        raise wrong_input("model", "no experts that regions are routed to", "a routed MODEL", remedy)
    routed = [style for style in routed_before if style.on]
    off = [_why_off(style) for style in routed_before if not style.on]
    if not routed:
        return model, encode_prompts(clip, [prompt]).native[0], "\n".join([*off, "every place reads the prompt"])
    if mode == "own prompts":
        prompts = [prompt, *(region_prompt(style.things, style.style, template) for style in routed)]
        texts = [encode_prompts(clip, [words]) for words in prompts]
        prompt_gates, conditioning = each_its_own(gates, routed, texts), _joined(texts)
        shown = [
            f"elsewhere: {prompt}",
            *(f"{style.style}: {words}" for style, words in zip(routed, prompts[1:], strict=True)),
        ]
    else:
        text = encode_prompts(clip, [prompt])
        owned = own_words(routed, text)
        prompt_gates = with_owners(gates, owned) if mode == "shared" else apart(gates, owned, None)
        conditioning = text.native[0]
        shown = [f"{style.style}: {int(owned[style.expert].sum())} tokens of its own" for style in routed]
    return attach_to_comfy(model, [], prompt_gates), conditioning, "\n".join([*shown, *off])


def _why_off(style: RoutedStyle) -> str:
    """Why a routed style is not on the MODEL: it has no place there, or its expert is off."""
    things = ", ".join(style.things)
    if bool((style.mask > 0).any()):
        return f"{style.style}: strength 0, no words of its own for {things}"
    return f"not found: {things}"


def _joined(texts: list[Text]) -> list[Any]:
    """The prompts' tokens one after the other, with what the base prompt has beside its words."""
    for text in texts:
        if len(text.native[0]) != 1 or "attention_mask" in text.native[0][0][1]:
            got = "a text encoding that changes during sampling, or with a mask"
            raise wrong_input("clip", got, "one plain encoding per prompt", "Remove CLIP hooks and schedules.")
    extra = texts[0].native[0][0][1]
    return [[torch.cat([text.native[0][0][0] for text in texts], 1), dict(extra)]]
