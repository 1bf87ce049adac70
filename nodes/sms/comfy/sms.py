"""SMS over ComfyUI's objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...engine.adapters.comfy import attach_to_comfy, attached_gates
from ...engine.adapters.gates import Gate, Gates
from ...engine.adapters.weights import ExpertWeights
from ...engine.errors import wrong_input
from ...engine.host.comfy import ComfyHost
from ...engine.io.comfy_tensors import image_of, images_of, masks_of
from ...engine.predictor.comfy import ComfyPredictor
from ..fake import init_fake
from ..pictures import curves, strip
from ..settings import Framing, SmsSettings
from ..stylize import Matched, has_mask, match_style, scaled_gates


@dataclass(frozen=True)
class MatchedBatch:
    """image `[B,H,W,3]`, mask `[B,H,W]`, and two pictures `[1,H,W,3]` about how the first came about."""

    image: Tensor
    mask: Tensor
    strip: Tensor
    curves: Tensor
    notice: str


def match_batch(
    model: Any, clip: Any, vae: Any, image: Tensor, mask: Tensor | None, caption: str, style: str, strength: float,
    settings: SmsSettings, framing: Framing,
) -> MatchedBatch:  # fmt: skip
    """Every picture of a batch by the experts attached to the MODEL, which is as before afterwards.

    RegionStyleError when the MODEL has no style experts, or they have masks of their own.
    """
    images = images_of(image)
    masks = None if mask is None else masks_of(mask, images)
    predictor, style_gates, fake = with_fake(model, clip, vae, strength, settings.seed)
    matched = match_style(predictor, images, masks, [caption], style, style_gates, fake, settings, framing)
    return _batch(matched, settings)


def with_fake(
    model: Any, clip: Any, vae: Any, strength: float, seed: int
) -> tuple[ComfyPredictor, dict[str, Gate], list[nn.Parameter]]:
    """A predictor over a clone of the MODEL with a fresh fake expert on it; the style's gates; the fake's parameters.

    strength multiplies the strengths the style experts are attached with. RegionStyleError when there are none, or
    they have masks of their own.
    """
    gates = attached_gates(model).values
    if not gates:
        raise wrong_input("model", "a model without style experts", "one or more", "Use Attach Style Expert first.")
    if masked := [name for name, gate in gates.items() if has_mask(gate)]:
        accepts = "experts without a mask of their own; the mask of this node says where the style acts"
        raise wrong_input("model", f"masks on {masked}", accepts, "Take the mask off Attach Style Expert.")
    fake = ExpertWeights(init_fake(model.model.diffusion_model, seed))
    parameters = list(fake.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    predictor = ComfyPredictor(attach_to_comfy(model, [fake], Gates()), clip, vae, ComfyHost())
    return predictor, scaled_gates(gates, strength), parameters


def _batch(matched: Matched, settings: SmsSettings) -> MatchedBatch:
    done = len(matched.history.style)
    notice = f"{done} of {settings.iterations} iterations" + (", settled" if done < settings.iterations else "")
    frames, losses = (image_of(picture[None].float()) for picture in (strip(matched.frames), curves(matched.history)))
    return MatchedBatch(image_of(matched.images), matched.masks.float().cpu(), frames, losses, notice)
