"""Experts and restyling over ComfyUI's objects."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...engine.adapters.acting import joined_reasons
from ...engine.adapters.active_gates import ActiveGates
from ...engine.adapters.comfy import attach_to_comfy, attached_experts, attached_gates
from ...engine.adapters.gates import Gate, Gates, RegionGate
from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.comfy import ComfyHost
from ...engine.host.compiled import original_network
from ...engine.io.comfy_tensors import image_of, images_of, masks_of
from ...engine.io.expert_files import expert_files, find_expert
from ...engine.lora.inverting import share_inverted
from ...engine.lora.style_words import words_of_style
from ...engine.predictor.comfy import ComfyPredictor
from ...engine.region.unchanged import why_unchanged
from ..restyle import COMPOSES, Restyled, restyle_region
from ..settings import RestyleSettings


def expert_choices() -> list[str]:
    """The LoRA files ComfyUI lists; never empty, since a combo without choices cannot be shown."""
    return expert_files() or ["put LoRA files into models/loras"]


def attach(model: Any, file: str, strength: float, mask: Tensor | None, style: str = "") -> tuple[Any, str]:
    """A clone of the MODEL with one more expert, and its style words. A second expert of one name gets a number.

    style: the words, instead of the file's own.
    """
    from ..published_experts import load_style_expert

    path = find_expert(file)
    expert = load_style_expert(path, network=original_network(model.model.diffusion_model), ignore_text_encoder=True)
    words = " ".join(style.split()) or words_of_style(expert)
    free = _free_name(expert.name, [e.name for e in attached_experts(model)])
    expert = replace(expert, name=free, style=" ".join(style.split()) or expert.style)
    gate: Gate = float(strength) if mask is None else RegionGate(_as_masks(mask), float(strength))
    return attach_to_comfy(model, [expert], Gates({expert.name: gate})), words


def _as_masks(mask: Tensor) -> Tensor:
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3:
        raise wrong_input("mask", f"shape {list(mask.shape)}", "a MASK [B,H,W]", "Connect a mask output.")
    return mask.float().clamp(0, 1).clone()


def _free_name(name: str, taken: list[str]) -> str:
    candidates = [name, *(f"{name} {number}" for number in range(2, len(taken) + 3))]
    return next(candidate for candidate in candidates if candidate not in taken)


def missing_expert(name: str | None) -> bool | str:
    """True, or what is wrong with the name of an expert's file, as a node's check of its inputs wants it."""
    try:
        if name is not None:
            find_expert(name)
    except RegionStyleError as error:
        return str(error)
    return True


@dataclass(frozen=True)
class RestyledBatch:
    """image `[B,H,W,3]`, mask `[B,H,W]`, how many were restyled, and what was not changed and why ("": nothing)."""

    image: Tensor
    mask: Tensor
    notice: str
    warning: str


def restyle_batch(
    model: Any, clip: Any, vae: Any, image: Tensor, mask: Tensor, prompt: str, negative: str, settings: RestyleSettings
) -> RestyledBatch:
    """Restyle every picture of a batch; one with an empty mask stays as it is and is named in the notice.

    In tiles it starts from as much of the picture's own noise as the attached experts want, unless tiles alone are to
    draw it anew.
    """
    if not prompt.strip():
        raise RegionStyleError(
            "prompt: got nothing, expected what the region shall show. Type for example 'a red star in mosaic style'."
        )
    images = images_of(image)
    masks = masks_of(mask, images)
    check_gate_batches(attached_gates(model), len(images))
    settings = replace(settings, inverted=_share_inverted(model, settings))
    predictor = ComfyPredictor(model, clip, vae, ComfyHost())
    names = {"prompt": prompt, "negative": negative if settings.cfg != 1 else None}
    with predictor.loaded():
        restyled = [
            _restyle_one(predictor, model, picture[None], region, number, names, settings)
            for number, (picture, region) in enumerate(zip(images, masks, strict=True))
        ]
    return _batch(images, masks, restyled, seedless=settings.inverted == 1)


def _share_inverted(model: Any, settings: RestyleSettings) -> float:
    """How much of the noise is the picture's own: none where tiles alone draw it anew, so that the seed counts.

    An expert that is off wants nothing.
    """
    if settings.detail == "full" and settings.strength > COMPOSES:
        return 0.0
    attached = {weights.name: weights.source for weights in attached_experts(model)}
    return share_inverted(attached[name] for name in ActiveGates(attached_gates(model), attached).acting)


def _batch(images: Tensor, masks: Tensor, restyled: list[Restyled | None], *, seedless: bool) -> RestyledBatch:
    """All pictures together; those that were not restyled (None) as they are."""
    each = list(zip(images, masks, restyled, strict=True))
    made = torch.cat([picture[None] if one is None else one.image for picture, _, one in each])
    blended = [torch.zeros_like(mask) if one is None else one.mask for _, mask, one in each]
    done = [one for one in restyled if one is not None]
    unchanged = why_unchanged(images, made, masks, joined_reasons(one.idle for one in done))
    warning = "\n".join(dict.fromkeys(filter(None, [unchanged, *(one.note for one in done)])))
    own = " from the picture's own noise, in which seed has no part" if seedless else ""
    tiled = {
        "native": "",
        "full": f", in tiles at full size{own}",
        "both": ", as a whole and then in tiles at full size",
    }
    ways = dict.fromkeys(tiled[one.detail] for one in done)
    notice = f"restyled {len(done)} of {len(restyled)}{''.join(ways)}"
    return RestyledBatch(image_of(made), torch.stack([mask.cpu() for mask in blended]), notice, warning)


def _restyle_one(
    predictor: Any,
    model: Any,
    picture: Tensor,
    region: Tensor,
    number: int,
    names: dict[str, Any],
    settings: RestyleSettings,
) -> Restyled | None:
    """One picture `[1,3,H,W]` restyled; None where its region `[H,W]` is empty."""
    if not bool((region > 0).any()):
        return None
    return restyle_region(
        predictor,
        picture,
        region,
        names["prompt"],
        negative=names["negative"],
        gate=region_gates(model, number),
        settings=settings,
    )


def check_gate_batches(gates: Gates, count: int) -> None:
    """RegionStyleError unless every gate has one entry, or one for each of `count` pictures."""
    for name, gate in gates.values.items():
        for what, entries in _entries(gate).items():
            if entries not in (1, count):
                got, accepts = f"{entries} entries", "1" if count == 1 else f"1 or {count}, the number of pictures"
                raise wrong_input(f"{what} of {name!r}", got, accepts, "Give one for all pictures, or one for each.")


def _entries(gate: Gate) -> dict[str, int]:
    """How many entries along the batch a gate has, by what has them."""
    if isinstance(gate, RegionGate):
        tokens = gate.owned_tokens
        owners = 1 if tokens is None or tokens.ndim == 1 else len(tokens)
        return {"mask": 1 if gate.mask.ndim == 2 else len(gate.mask), "owned_tokens": owners}
    if isinstance(gate, Tensor) and gate.ndim >= 2:
        return _entries(RegionGate(gate))
    return {"gate": len(gate) if isinstance(gate, Tensor) and gate.ndim else 1}


def region_gates(
    model: Any, number: int, only: Collection[str] | None = None
) -> Callable[[Tensor, Callable[[Tensor], Tensor]], Gates | None]:
    """How the experts of a MODEL act in the crop of image number `at`: as attached, but inside the region only.

    only: the names of those that act; None: all of them.
    """

    def gates(region: Tensor, cut: Callable[[Tensor], Tensor]) -> Gates | None:
        attached = attached_gates(model)
        acting = {name: gate for name, gate in attached.values.items() if only is None or name in only}
        inside = {name: _inside(gate, region, cut, number) for name, gate in acting.items()}
        return replace(attached, values=inside) if attached.values else None

    return gates


def _inside(gate: Gate, region: Tensor, cut: Callable[[Tensor], Tensor], number: int) -> Gate:
    """A gate limited to the region; an expert's own mask is cut like the picture."""
    if isinstance(gate, Tensor) and gate.ndim >= 2:
        gate = RegionGate(gate)
    if not isinstance(gate, RegionGate):
        value = _entry(gate, number) if isinstance(gate, Tensor) and gate.ndim else gate
        return RegionGate(region, float(value))
    if gate.visible_tokens is not None:
        remedy = "Sample it with KSampler, or route without regional prompts: this node has a prompt of its own."
        raise wrong_input("model", "a MODEL from Regional Prompts", "one without", remedy)
    own = gate.mask if gate.mask.ndim == 3 else gate.mask[None]
    owned = gate.owned_tokens
    owned = owned if owned is None or owned.ndim == 1 else _entry(owned, number)
    return replace(gate, mask=region * cut(_entry(own, number)).to(region), owned_tokens=owned)


def _entry(values: Tensor, number: int) -> Tensor:
    """The entry of picture `at`, of a batch that `check_gate_batches` accepts."""
    return values[0 if len(values) == 1 else number]
