"""Stacks of experts on a ComfyUI MODEL: by regions, by prompt, and for a part of the noise levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...engine.adapters.comfy import attach_to_comfy, attached_experts, attached_gates
from ...engine.adapters.gates import Gates
from ...engine.errors import wrong_input
from ...engine.host.comfy import ComfyHost
from ...engine.host.compiled import original_network
from ...engine.io.expert_files import find_expert
from ...engine.lora.style_words import words_of_style
from ...engine.predictor.comfy import GATES_KEY
from ...engine.predictor.comfy_text import encode_prompts
from ...engine.region.regions import Regions
from ..experts import Experts, StackedExpert, phrases_of
from ..gates.learnt_gate import LearntGate
from ..gates.noise_range import gates_within
from ..gates.prompt_gates import (
    embedding,
    experts_of_gate,
    hard_weights,
    prototypes_of,
    soft_weights,
    style_sentences,
    weighted_gates,
)
from ..gates.region_gates import RoutedStyle, region_gates_of, route_regions
from ..settings import NoiseRange

RANGES_KEY, ROUTED_KEY = "regionstyle.noise_ranges", "regionstyle.routed"
NOT_FOUND = "not found, off"  # how a line about a style ends none of whose things is there
AT_ZERO = "strength 0, off"  # and one whose expert is switched off
NO_EXPERT = "no expert: plain prompting"


def stacked(experts: Experts | None, file: str, name: str, phrases: str, strength: float) -> Experts:
    """A stack with one more LoRA file. Without phrases: the file's own words, else its name."""
    path = find_expert(file)
    words = phrases_of(phrases) or (_own_style(path),)
    return (experts or Experts()) + StackedExpert(path, name.strip() or words[0], words, float(strength))


def _own_style(path: Path) -> str:
    from ..published_experts import load_style_expert

    expert = load_style_expert(path, ignore_text_encoder=True)
    return words_of_style(expert)


def by_regions(model: Any, experts: Experts, regions: Regions, edge: int, when: NoiseRange) -> tuple[Any, str]:
    """A clone of the MODEL with each region's expert acting in its mask, and a line about it."""
    routed = route_regions(experts, regions, edge=edge, host=ComfyHost())
    patched = attach_stack(model, experts, region_gates_of(experts, routed), when)
    reasons = [why_off(experts, style) for style in routed]
    told = [replace(style, on=not why) for style, why in zip(routed, reasons, strict=True)]
    patched.set_attachments(ROUTED_KEY, (*routed_styles(model), *told))
    lines = [f"{style.style} -> {', '.join(style.things)}" for style in routed]
    lines += [f"{style.style}: {why}" for style, why in zip(routed, reasons, strict=True) if why]
    used = {style.expert for style in routed}
    lines += [f"{item.name}: no region, off" for item in experts if item.name not in used]
    return patched, "\n".join(lines)


def why_off(experts: Experts, style: RoutedStyle) -> str:
    """Why the expert of a routed style does nothing, as a line about it ends; "" where it acts."""
    if not bool((style.mask > 0).any()):
        return NOT_FOUND
    return AT_ZERO if not {item.name: item.strength for item in experts}[style.expert] else ""


def routed_styles(model: Any) -> tuple[RoutedStyle, ...]:
    """What the experts of a MODEL were routed to by regions, in order."""
    return model.get_attachment(ROUTED_KEY) or ()


def by_prompt(
    model: Any,
    clip: Any,
    experts: Experts,
    prompt: str,
    soft: tuple[int, float, float] | LearntGate | None,
    when: NoiseRange,
) -> tuple[Any, str]:
    """A clone of the MODEL with the experts a prompt means, and their weights, one per line.

    soft: top k, temperature and floor, or a learnt gate; None: those that are named. RegionStyleError for an empty
    prompt or stack, and a gate for other experts or another text encoder.
    """
    if not prompt.strip() or not len(experts):
        missing = "prompt" if not prompt.strip() else "experts"
        raise wrong_input(missing, "nothing", "some", "Type the style, and stack one or more experts.")
    if isinstance(soft, LearntGate):
        weights = _learnt(clip, experts, prompt, soft)
    else:
        weights = hard_weights(experts, prompt) if soft is None else _near(clip, experts, prompt, soft)
    patched = attach_stack(model, experts, weighted_gates(experts, weights), when)
    lines = [f"{name}: {weight:.3f}" for name, weight in weights.items()]
    return patched, "\n".join(lines if any(weights.values()) else [*lines, NO_EXPERT])


def _learnt(clip: Any, experts: Experts, prompt: str, gate: LearntGate) -> dict[str, float]:
    names = experts_of_gate(gate, experts)  # before anything is encoded
    routing = gate(encode_prompts(_needed(clip), [prompt]))
    weights = dict(zip(names, routing.weights[0].tolist(), strict=True))
    return {name: weights[name] for name in experts.names}


def _needed(clip: Any) -> Any:
    if clip is None:
        raise wrong_input("clip", "nothing", "a CLIP for this mode", "Connect the model's text encoder.")
    return clip


def _near(clip: Any, experts: Experts, prompt: str, soft: tuple[int, float, float]) -> dict[str, float]:
    def embedded(texts: Sequence[str]) -> Tensor:
        # One by one: long prompts have other lengths than short ones.
        import torch

        return torch.cat([embedding(encode_prompts(clip, [text])) for text in texts])

    clip = _needed(clip)
    prototypes = prototypes_of([embedded(style_sentences(item)) for item in experts])
    top_k, temperature, floor = soft
    weights = soft_weights(embedded([prompt])[0], prototypes, top_k=top_k, temperature=temperature, floor=floor)
    return dict(zip(experts.names, weights.tolist(), strict=True))


def attach_stack(model: Any, experts: Experts, gates: Gates, when: NoiseRange) -> Any:
    """A clone of the MODEL with those experts of a stack that have work to do; the others' files are not read.

    RegionStyleError for a MODEL of another kind, files that do not fit it, and a name the MODEL has already.
    """
    from ...engine.families.registry import family_of

    network = original_network(model.model.diffusion_model)
    family_of(network)  # says which models are supported before any file is read
    acting = [item for item in experts if not _off(gates.values[item.name])]
    taken = {attached.name for attached in attached_experts(model)} & {item.name for item in acting}
    if taken:
        remedy = "Give it another name in its stack, or route both from one stack."
        raise wrong_input("experts", f"{sorted(taken)}, on the model already", "new names", remedy)
    values = {item.name: gates.values[item.name] for item in acting}
    patched = (
        attach_to_comfy(model, [item.load(network) for item in acting], Gates(values)) if acting else model.clone()
    )
    if not when.whole and acting:
        _schedule(patched, {item.name: when for item in acting})
    return patched


def _off(gate: Any) -> bool:
    strength, mask = (gate, None) if isinstance(gate, float) else (gate.strength, gate.mask)
    return strength == 0 or (mask is not None and not bool((mask > 0).any()))


def _schedule(patched: Any, ranges: dict[str, NoiseRange]) -> None:
    """Let experts of a MODEL act within their ranges only, beside those that have one already."""
    from comfy.patcher_extension import WrappersMP

    patched.set_attachments(RANGES_KEY, {**(patched.get_attachment(RANGES_KEY) or {}), **ranges})
    patched.remove_wrappers_with_key(WrappersMP.CALC_COND_BATCH, RANGES_KEY)
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, RANGES_KEY, _within_ranges)


def _within_ranges(
    executor: Callable[..., Any], model: Any, conds: Any, x: Tensor, timestep: Tensor, options: dict[str, Any]
) -> Any:
    """One step: the gates of the running MODEL, or those given for this call, without the experts out of range."""
    patcher, transformer_options = model.current_patcher, options.get("transformer_options", {})
    level, sampling = float(timestep.flatten()[0]), model.model_sampling

    def covered(noise_range: NoiseRange) -> bool:
        return sampling.percent_to_sigma(noise_range.end) <= level <= sampling.percent_to_sigma(noise_range.start)

    given = transformer_options.get(GATES_KEY)
    ranges = patcher.get_attachment(RANGES_KEY)
    gates = gates_within(attached_gates(patcher) if given is None else given, ranges, covered)
    options = {**options, "transformer_options": {**transformer_options, GATES_KEY: gates}}
    return executor(model, conds, x, timestep, options)
