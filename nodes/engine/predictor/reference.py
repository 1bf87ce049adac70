"""Reference pictures: what networks that edit (FLUX.1 Kontext) see beside the picture that they draw.

Their latents become tokens of the same sequence, after the picture's own, with positions of their own: the same rows
and columns under the picture number 1 (Black Forest Labs, FLUX.1 Kontext, arXiv:2506.15742).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import wrong_input
from ..families.base import joined
from ..host.memory import BatchSlice


def check_references(network: nn.Module, host: str, latents: Tensor, channels: int) -> None:
    """RegionStyleError for a network that sees no reference pictures, and for what are no latents `[P,C,h,w]` of it."""
    from ..families.registry import families, family_of  # families know the predictor's texts

    family = family_of(network)
    if host not in family.references:
        names = joined([f"the {one.name} class (Kontext)" for one in families() if host in one.references], "or")
        remedy = "Leave the picture before out (source: hidden), or use such a model."
        raise wrong_input("reference picture", f"a model of the {family.name} class", f"one of {names}", remedy)
    if latents.ndim != 4 or latents.shape[1] != channels:
        accepts = f"latents [P,{channels},h,w]"
        raise wrong_input("reference picture", list(latents.shape), accepts, "Encode it with this model's autoencoder.")


def reference_rows(latents: Tensor, batch: int, running: BatchSlice | None) -> Tensor:
    """References `[P,C,h,w]` of P pictures for a batch `[batch,C,h,w]` that holds these once or several times, one
    block of pictures after the other; running: the slice of the pictures that the batch is of (None: all).

    RegionStyleError for a batch that does not.
    """
    if running is not None and len(latents) == running.total:
        latents = latents[running.rows]
    if batch % len(latents):
        accepts = f"{len(latents)} pictures, or a multiple"
        raise wrong_input("latents", f"a batch of {batch}", accepts, "Predict for the pictures that have references.")
    return latents.repeat(batch // len(latents), 1, 1, 1)


def with_reference(conditioning: list[Any], latents: Tensor | None, model: Any) -> list[Any]:
    """ComfyUI's conditioning with a reference picture, as its node ReferenceLatent writes it; others stay before it."""
    if latents is None:
        return conditioning
    # ComfyUI brings the latent into the network's scale itself.
    added = model.process_latent_out(latents)
    return [
        [states, {**extra, "reference_latents": [*extra.get("reference_latents", ()), added]}]
        for states, extra in conditioning
    ]
