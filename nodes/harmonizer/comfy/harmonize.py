"""Harmonisation over ComfyUI's tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....kernels import poisson_blend
from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.comfy import ComfyHost
from ...engine.io.comfy_tensors import image_of, images_of, masks_of
from ..base import Harmonizer, enlarged_result
from ..data.random_poisson import random_poisson_blend
from ..paste import paste_back
from ..place import lay_into, on_canvas
from ..settings import BlendSettings, MatchSettings, PlaceSettings, RandomPoissonSettings, SeamSettings
from ..small.harmonizer import SmallHarmonizer
from ..statistics.harmonizer import StatisticsHarmonizer


@dataclass(frozen=True)
class Harmonized:
    """image `[B,H,W,3]`, mask `[B,H,W]` of what was changed, and a warning ("": none)."""

    image: Tensor
    mask: Tensor
    warning: str = ""


def composite_of(
    composite: Tensor | None, foreground: Tensor | None, background: Tensor | None, mask: Tensor, place: PlaceSettings
) -> tuple[Tensor, Tensor]:
    """The composite `[B,3,H,W]` and its mask `[B,1,H,W]`: given, or laid together from foreground and background.

    RegionStyleError for both kinds at once, neither, and half of the second.
    """
    parts = {"foreground": foreground, "background": background}
    given = [name for name, value in parts.items() if value is not None]
    if composite is not None:
        if given:
            accepts = "either a composite, or a foreground and a background"
            raise wrong_input("composite", f"one with {' and '.join(given)}", accepts, "Take one of them off.")
        images = images_of(composite)
        return images, masks_of(mask, images)[:, None]
    if foreground is None or background is None:
        missing = " and ".join(name for name, value in parts.items() if value is None)
        accepts = "a composite, or a foreground and a background"
        raise wrong_input("composite", f"nothing, and no {missing}", accepts, "Connect what is missing.")
    front = images_of(foreground)
    return lay_into(front, masks_of(mask, front)[:, None], images_of(background), place)


def harmonize_in_comfy(
    harmonizer: Harmonizer | None,
    images: Tensor,
    mask: Tensor,
    reference: Tensor | None,
    reference_mask: Tensor | None,
    settings: SeamSettings,
) -> Harmonized:
    """A composite harmonised and pasted back; pictures whose mask is empty stay as they are, which is said.

    So do, in a batch, pictures that cannot be harmonised. RegionStyleError when that is all of them.
    """
    guide = None if reference is None else images_of(reference)
    if guide is not None and len(guide) not in (1, len(images)):
        accepts = "1 picture" if len(images) == 1 else f"1 picture, or {len(images)}, one for each composite"
        raise wrong_input("reference", f"{len(guide)} pictures", accepts, "Give one reference.")
    guide_mask = None
    if reference_mask is not None:
        if guide is None:
            raise wrong_input("reference_mask", "a mask", "it with a reference", "Connect the reference as well.")
        guide_mask = masks_of(reference_mask, guide)[:, None]
    there = [index for index in range(len(images)) if bool((mask[index] > 0).any())]
    empty = [str(index + 1) for index in range(len(images)) if index not in there]
    result, failed = images.clone(), {}
    host, harmonizer = ComfyHost(), harmonizer or SmallHarmonizer()
    progress = host.progress(max(1, len(there)), "harmonising")
    for done, index in enumerate(there):
        at = slice(index, index + 1)
        pick = None if guide is None else guide[at] if len(guide) == len(images) else guide
        pick_mask = None if guide_mask is None else guide_mask[at] if len(guide_mask) == len(images) else guide_mask
        try:
            made = harmonizer.harmonize(
                images[at], mask[at], reference=pick, reference_mask=pick_mask, seed=settings.seed,
                on_step=lambda step, total, preview: host.check(),
            )  # fmt: skip
            result[at] = paste_back(images[at], made.to(images), mask[at], seam=settings.seam)
        except RegionStyleError as error:
            failed[index + 1] = error
        progress.update(done + 1, result[index])
    if failed and len(failed) == len(there):
        raise next(iter(failed.values()))
    told = [f"the mask of picture {', '.join(empty)} is empty: it stays as it is"] if empty else []
    warning = "\n".join([*told, *(f"picture {number} stays as it is: {error}" for number, error in failed.items())])
    if not warning and torch.equal(result, images):
        warning = "the result equals the composite"
    enlarged = enlarged_result(harmonizer, (images.shape[-2], images.shape[-1])) if there else ""
    warning = "\n".join(filter(None, [warning, enlarged]))
    return Harmonized(image_of(result), mask[:, 0].float().cpu(), warning)


def poisson_in_comfy(
    foreground: Tensor, background: Tensor, mask: Tensor, place: PlaceSettings, settings: BlendSettings
) -> Harmonized:
    """Poisson blending of a foreground into a background at a place."""
    front, behind = images_of(foreground), images_of(background)
    canvas, region = on_canvas(front, masks_of(mask, front)[:, None], behind, place)
    target = behind.expand(len(canvas), -1, -1, -1).contiguous()
    inside = region > 0.5
    warning = "" if bool(inside.any()) else "the mask is empty above 0.5: the background stays as it is"
    made = poisson_blend(canvas.contiguous(), target, inside.to(target), mode=settings.mode)
    return Harmonized(image_of(torch.where(inside, made.clamp(0, 1), target)), inside[:, 0].float().cpu(), warning)


def match_in_comfy(
    image: Tensor, mask: Tensor, reference: Tensor | None, reference_mask: Tensor | None, settings: MatchSettings
) -> Harmonized:
    """The masked part with the colour statistics of the rest, or of a reference."""
    images = images_of(image)
    regions = masks_of(mask, images)[:, None]
    harmonizer = StatisticsHarmonizer(settings.method, settings.strength)
    return harmonize_in_comfy(harmonizer, images, regions, reference, reference_mask, SeamSettings())


def random_poisson_in_comfy(
    image: Tensor, mask: Tensor, donors: Tensor | None, settings: RandomPoissonSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Composites, masks and truths, `variants` for each picture. Donors: given ones, else the batch's other pictures,
    else another place of the picture itself."""
    images = images_of(image)
    masks = masks_of(mask, images)[:, None]
    others = None if donors is None else images_of(donors)
    composites, regions, truths = [], [], []
    progress = ComfyHost().progress(len(images) * settings.variants, "Random Poisson Blending")
    for number in range(len(images) * settings.variants):
        index = number // settings.variants
        random = torch.Generator().manual_seed((settings.seed * 1_000_003 + number) % 2**64)
        donor = _donor(images, others, index, random)
        picture, region = images[index : index + 1], masks[index : index + 1]
        composites.append(random_poisson_blend(picture, region, donor, random, strength=settings.strength))
        regions.append((region[:, 0] > 0.5).float())
        truths.append(picture)
        progress.update(number + 1, composites[-1][0])
    return image_of(torch.cat(composites)), torch.cat(regions).cpu(), image_of(torch.cat(truths))


def _donor(images: Tensor, others: Tensor | None, index: int, random: torch.Generator) -> Any:
    pool = others if others is not None else torch.cat([images[:index], images[index + 1 :]])
    pool = images if not len(pool) else pool
    at = int(torch.randint(len(pool), (1,), generator=random))
    return pool[at : at + 1]
