"""ComfyUI's models for inpainting: which they are, and what they are told, as its own nodes write it."""

from __future__ import annotations

from typing import Any

from ..errors import wrong_input
from ..families.layers import class_names
from .inpainting import Inpainting

# Names in `concat_keys` of a model (comfy.model_base): what lies beside its latent.
_INPAINTING = {"mask", "masked_image"}


def inpaints(model: Any) -> bool:
    """Whether a model (in comfy.model_base) is told where to redraw and the picture around it.

    RegionStyleError for one whose first layer takes something else beside the latent.
    """
    beside = set(getattr(model, "concat_keys", ()))
    if "IP2P" in class_names(model) or beside - _INPAINTING:
        got = f"{type(model).__name__}, which takes {', '.join(sorted(beside)) or 'a picture'} beside the latent"
        accepts = "a model that is told words alone, or a mask and a masked picture (inpainting)"
        raise wrong_input("model", got, accepts, "Use the plain or the inpainting checkpoint of this family.")
    return bool(beside)


def with_inpainting(conditioning: list[Any], told: Inpainting | None, model: Any) -> list[Any]:
    """A conditioning that tells a model what to inpaint; one that says so itself (another node's) stays as it is."""
    if told is None:
        return conditioning
    # ComfyUI brings the latent into the network's scale itself.
    added = {"concat_latent_image": model.process_latent_out(told.latents), "concat_mask": told.mask}
    return [[states, {**added, **extra}] for states, extra in conditioning]
