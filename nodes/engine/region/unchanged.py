"""Why a run changed nothing, in words for the user: for every node and command that restyles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

HALF_A_LEVEL = 1 / 510  # of 8 bits: what is closer together looks the same once it is saved


def why_unchanged(
    before: Tensor, after: Tensor, masks: Tensor | None = None, idle: Mapping[str, str] | None = None
) -> str:
    """What a user should know of results beside their sources, both `[B,3,H,W]` in 0..1; "" where all is well.

    masks: where they were to change, `[B,H,W]` (None: everywhere); idle: the experts that were to act -> why they did
    not, "" for those that did (`ExpertWatch.idle_reasons`). One line for each thing: empty masks, pictures that came
    out as they went in, experts that had no part in it.
    """
    regions = [masks is None or bool((masks[number] > 0).any()) for number in range(len(before))]
    kinds = [_kind(*one) for one in zip(before, after, regions, strict=True)]
    lines = [_line(what, (n for n, kind in enumerate(kinds) if kind == what)) for what in (EMPTY, SAME, ALIKE)]
    if any(kind != EMPTY for kind in kinds):
        lines += [f"style expert {name!r} did not act: {why}" for name, why in (idle or {}).items() if why]
    return "\n".join(filter(None, lines))


EMPTY = "empty mask, unchanged"
SAME = "nothing changed, the result equals the input bit for bit"
ALIKE = "nothing changed that a picture of 8 bits could show"


def empty_masks(masks: Tensor) -> str:
    """Which of the masks `[B,H,W]` or `[H,W]` select nothing; "" for none of them."""
    each = masks.reshape(-1, *masks.shape[-2:])
    return _line("empty mask", (number for number, mask in enumerate(each) if not bool((mask > 0).any())))


def _kind(before: Tensor, after: Tensor, has_region: bool) -> str:
    """What there is to say of one picture; "" for nothing."""
    if not has_region:
        return EMPTY
    before, after = before.detach().float().cpu(), after.detach().float().cpu()
    if bool((before == after).all()):
        return SAME
    return ALIKE if looks_alike(before, after) else ""


def looks_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two pictures of one size, in 0..1, differ nowhere by half a level of 8 bits."""
    return float((one - other).abs().max()) < HALF_A_LEVEL


def _line(what: str, numbers: Iterable[int]) -> str:
    listed = ", ".join(map(str, numbers))
    return f"{what}: image {listed}" if listed else ""
