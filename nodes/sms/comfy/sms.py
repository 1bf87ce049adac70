"""SMS over ComfyUI's objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...engine.adapters.acting import watching_experts
from ...engine.adapters.comfy import KEY, attach_to_comfy, attached_gates, without_experts
from ...engine.adapters.gates import Gate, Gates
from ...engine.adapters.weights import ExpertWeights
from ...engine.errors import wrong_input
from ...engine.host.comfy import ComfyHost
from ...engine.host.compiled import original_network
from ...engine.io.comfy_tensors import image_of, images_of, masks_of
from ...engine.io.curves import strip
from ...engine.predictor.comfy import ComfyPredictor
from ...engine.region.unchanged import why_unchanged
from ..fake import init_fake
from ..pictures import curves
from ..settings import Framing, SmsSettings
from ..stylize import UNSEEN, Matched, has_mask, match_style, scaled_gates


@dataclass(frozen=True)
class MatchedBatch:
    """image `[B,H,W,3]`, mask `[B,H,W]`, two pictures `[1,H,W,3]` about how the first came about, and two texts."""

    image: Tensor
    mask: Tensor
    strip: Tensor
    curves: Tensor
    notice: str
    warning: str  # what was not changed, and why; "" where all was


def match_batch(
    model: Any, clip: Any, vae: Any, image: Tensor, mask: Tensor | None, caption: str, style: str, strength: float,
    settings: SmsSettings, framing: Framing, base: Any = None,
) -> MatchedBatch:  # fmt: skip
    """Every picture of a batch by the experts attached to the MODEL, which is as before afterwards.

    base: a MODEL that real and fake predict on, its own experts off (None: the MODEL without its experts).
    RegionStyleError when the MODEL has no style experts, or they have masks of their own, and for a base that cannot
    be loaded beside it.
    """
    images = images_of(image)
    masks = None if mask is None else masks_of(mask, images)
    if base is None or _is_one_network(model, base):
        plain = None
        predictor, style_gates, fake = with_fake(model, clip, vae, strength, settings.seed)
    else:
        predictor, style_gates = ComfyPredictor(model, clip, vae, ComfyHost()), _style_gates(model, strength)
        plain, fake = _fake_on(without_experts(base), clip, vae, settings.seed)
    with watching_experts() as watch:
        matched = match_style(predictor, images, masks, [caption], style, style_gates, fake, settings, framing, plain)
    warning = why_unchanged(images, matched.images, masks, watch.idle_reasons(Gates(style_gates)))
    warning = warning or ("" if matched.seen else UNSEEN)
    return _batch(matched, settings, "\n".join(filter(None, [warning, matched.note])))


def with_fake(
    model: Any, clip: Any, vae: Any, strength: float, seed: int
) -> tuple[ComfyPredictor, dict[str, Gate], list[nn.Parameter]]:
    """A predictor over a clone of the MODEL with a fresh fake expert on it; the style's gates; the fake's parameters.

    strength multiplies the strengths the style experts are attached with. RegionStyleError when there are none, or
    they have masks of their own.
    """
    gates = _style_gates(model, strength)
    predictor, parameters = _fake_on(model, clip, vae, seed)
    return predictor, gates, parameters


def _is_one_network(model: Any, base: Any) -> bool:
    """Whether base is the MODEL itself, apart from experts: real and fake then predict on it with the experts off.

    RegionStyleError where it is the same loaded network with other patches: it cannot have both at once.
    """
    if base.model is not model.model:
        return False
    if _patches_of(base) != _patches_of(model):
        got = "the network of model with other patches (a LoRA loader, or another node that changes the MODEL)"
        accepts = "another checkpoint, or the MODEL that the experts were attached to"
        raise wrong_input("base", got, accepts, "Put those patches on both, or attach the LoRA as a style expert.")
    return True


def _patches_of(model: Any) -> tuple[Any, ...]:
    """What changes a MODEL's network and how it is called, apart from experts; equal for clones that are alike."""
    return (
        model.patches_uuid if model.patches else None,
        {name: id(patch) for name, patch in model.object_patches.items()},
        _plain(model.model_options),
    )


def _plain(options: Any) -> Any:
    """A MODEL's options, with objects by identity and without what experts put there."""
    if isinstance(options, dict):
        kept = {key: _plain(value) for key, value in options.items() if key != KEY}
        return {key: value for key, value in kept.items() if value not in ({}, [])}
    if isinstance(options, (list, tuple)):
        return [_plain(value) for value in options]
    return options if isinstance(options, (str, int, float, bool, type(None))) else id(options)


def _style_gates(model: Any, strength: float) -> dict[str, Gate]:
    gates = attached_gates(model).values
    if not gates:
        raise wrong_input("model", "a model without style experts", "one or more", "Use Attach Style Expert first.")
    if masked := [name for name, gate in gates.items() if has_mask(gate)]:
        accepts = "experts without a mask of their own; the mask of this node says where the style acts"
        raise wrong_input("model", f"masks on {masked}", accepts, "Take the mask off Attach Style Expert.")
    return scaled_gates(gates, strength)


def _fake_on(model: Any, clip: Any, vae: Any, seed: int) -> tuple[ComfyPredictor, list[nn.Parameter]]:
    """A predictor over a clone of a MODEL with a fresh fake expert on it, and that expert's parameters."""
    fake = ExpertWeights(init_fake(original_network(model.model.diffusion_model), seed))
    parameters = list(fake.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    return ComfyPredictor(attach_to_comfy(model, [fake], Gates()), clip, vae, ComfyHost()), parameters


def _batch(matched: Matched, settings: SmsSettings, warning: str) -> MatchedBatch:
    done = len(matched.history.style)
    notice = f"{done} of {settings.iterations} iterations" + (", settled" if done < settings.iterations else "")
    notice += f", in {matched.tiles} tiles at full size" if matched.tiles else ""
    frames, losses = (image_of(picture[None].float()) for picture in (strip(matched.frames), curves(matched.history)))
    return MatchedBatch(image_of(matched.images), matched.masks.float().cpu(), frames, losses, notice, warning)
