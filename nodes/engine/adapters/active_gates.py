"""Gates as a network's layers read them: checked, and fitted to each layer's batch, grid and text.

Masks are given once, in any resolution, and read at every layer's own grid. Overlapping masks share a position: where
they sum to more than 1 they are divided by their sum. (RegionRoute gives no rule for overlaps; this one keeps experts
from adding up.)

In a joint attention (FLUX, SD3) the text has rows of its own, which no mask reaches. There an expert with a mask acts
fully on the text tokens that it owns, not at all on those of another expert, and on tokens that nobody owns with 1/E,
E being the experts with a mask on that image, or not at all (`Gates.shared_text`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import wrong_input
from ..families.token_grid import Size
from ..host.context import pass_context
from .batch_rows import ActiveRows, active_rows, fit_batch
from .gates import Gates, RegionGate, check_options, checked_gate, checked_visible_tokens
from .region_passes import RegionPass, divided

Result = TypeVar("Result")


class ActiveGates:
    """Gates of one call, checked, ready to be read layer by layer. Experts that are off everywhere are left out.

    regions: names of the experts with a mask, in order.
    """

    def __init__(self, gates: Gates, names: Iterable[str]) -> None:
        """RegionStyleError for a name that is not in `names` and for a gate of the wrong kind, shape or range."""
        known = list(names)
        named = [gates.values, *(option for option in (gates.pooled, gates.shared_text) if isinstance(option, Mapping))]
        if unknown := [name for table in named for name in table if name not in known]:
            raise wrong_input("gates", f"experts {unknown}", f"some of {known}", "Name experts that are attached.")
        check_options(gates)
        isolating = gates.rest_visible_tokens is not None
        checked = {name: checked_gate(name, gate, isolating) for name, gate in gates.resolved().values.items()}
        self._values = {name: gate for name, gate in checked.items() if gate is not None}
        self.regions = tuple(name for name, gate in self._values.items() if isinstance(gate, RegionGate))
        self._rest_visible_tokens = checked_visible_tokens("the rest", gates.rest_visible_tokens)
        self._cache: dict[Any, Any] = {}

    def __contains__(self, name: object) -> bool:
        """Whether an expert acts; a region of one that is off may still say what its image tokens see."""
        gate = self._values.get(name)  # type: ignore[call-overload]
        return gate is not None and not (isinstance(gate, RegionGate) and gate.strength == 0)

    @property
    def acting(self) -> list[str]:
        """The experts that act on some image, at some place."""
        return [name for name in self._values if name in self]

    def batch_sizes(self) -> dict[str, int]:
        """Entries of each gate that is a tensor or a mask, for the running slice of the batch."""
        tensors = {name: g.mask if isinstance(g, RegionGate) else g for name, g in self._values.items()}
        context = pass_context()
        return {name: len(context.own_rows(value)) for name, value in tensors.items() if isinstance(value, Tensor)}

    def strength(self, region: str) -> float:
        return self._region(region).strength

    def per_image(self, name: str, batch: int, device: torch.device) -> Tensor:
        """The gate of an expert without a mask, `[batch]`."""
        gate = self._values[name]
        if not isinstance(gate, Tensor):
            return torch.full((batch,), float(gate), device=device)  # type: ignore[arg-type]
        if gate.requires_grad:
            return fit_batch(gate.to(device), batch, name)
        # Asked by every layer. A tensor made in inference mode could not be kept for a backward pass.
        key = ("gate", name, batch, device, torch.is_inference_mode_enabled())
        return self.cached(key, lambda: fit_batch(gate.to(device), batch, name))

    def active_rows(self, name: str, batch: int) -> ActiveRows:
        """The rows of the batch in which an expert can act: others need no work."""
        gate = self._values[name]
        if isinstance(gate, RegionGate) or (isinstance(gate, Tensor) and gate.requires_grad):
            return ActiveRows(0, batch, None)
        key = ("active rows", name, batch)
        return self.cached(key, lambda: active_rows(self.per_image(name, batch, torch.device("cpu"))))

    def on_grid(self, name: str, size: Size, batch: int, device: torch.device) -> Tensor:
        """strength * mask of an expert with a mask, on a grid: `[batch,h,w]`."""
        return self.masks(size, batch, device)[:, self.regions.index(name)] * self.strength(name)

    def pooled(self, name: str, size: Size, batch: int, device: torch.device) -> Tensor | None:
        """strength * mean of the mask, `[batch]`; None with `pooled="off"`."""
        off = self._region(name).pooled == "off"
        return None if off else self.on_grid(name, size, batch, device).mean((-2, -1))

    def of_image_tokens(self, name: str, grids: Sequence[Size], batch: int, device: torch.device) -> Tensor:
        """strength * mask of an expert with a mask, one value per image token of all grids in turn: `[batch,N]`."""
        return torch.cat([self.on_grid(name, size, batch, device).flatten(1) for size in grids], 1)

    def of_text_tokens(self, name: str, tokens: int, batch: int, device: torch.device) -> Tensor:
        """The gate of an expert with a mask on the text tokens of a joint attention, `[batch,tokens]`.

        The rule stands at the top of this file. In texts other than the positive prompt (`prompts_of_batch`) every
        token is shared. An expert whose mask is empty on an image is off there, and not counted.
        """
        present = self._present(batch, device)
        owned = torch.stack([self._owned_tokens(other, tokens, batch, device) for other in self.regions])
        own, shared = owned[self.regions.index(name)], ~owned.any(0)
        share = 1 / present.sum(0).clamp_min(1)
        share = share if self._region(name).shared_text == "share" else torch.zeros_like(share)
        gate = own.to(share) + shared.to(share) * share[:, None]
        return gate * (present[self.regions.index(name)] * self.strength(name))[:, None]

    def masks(self, size: Size, batch: int, device: torch.device) -> Tensor:
        """All masks on a grid, `[batch,R,h,w]` in the order of `regions`, nowhere summing to more than 1."""
        # Tensors made in inference mode cannot take part in a later backward pass, so they are not shared with it.
        key = ("masks", size, batch, device, torch.is_inference_mode_enabled(), torch.is_grad_enabled())
        return self.cached_from_masks(key, lambda: self._all_masks(size, batch, device))

    @property
    def isolated(self) -> bool:
        """Whether some image tokens may not attend to some tokens of the prompt."""
        return bool(self.regions) and any(self._visible_tokens(name) is not None for name in (*self.regions, ""))

    def visible_tokens(self, region: str, tokens: int) -> Tensor | None:
        """Positions of the tokens that a region may attend to, "" for the rest, on the CPU; None for all of them.

        ComfyUI repeats a prompt that runs together with a longer one: then all its repetitions. RegionStyleError where
        the `tokens` of the running text are no multiple of those the gates were made for.
        """
        visible = self._visible_tokens(region)
        if visible is None:
            return None
        if tokens % len(visible):
            got, accepts = f"{len(visible)} entries", f"{tokens}, the text tokens of the prompt that runs"
            name = f"visible_tokens of {region or 'the rest'!r}"
            raise wrong_input(name, got, accepts, "Use the prompt that was encoded for these gates.")
        key = ("visible tokens", region, tokens)
        return self.cached(key, lambda: visible.cpu().repeat(tokens // len(visible)).nonzero().squeeze(1))

    def cached(self, key: Any, make: Callable[[], Result]) -> Result:
        """What `make` returns, made once per key (and slice of the batch) for as long as these gates are used."""
        key = (pass_context().batch_slice, key)
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def cached_from_masks(self, key: Any, make: Callable[[], Result]) -> Result:
        """What `make` computes from the masks: cached, but for each pass anew where gradients flow to a mask."""
        learnt = torch.is_grad_enabled() and any(self._region(name).mask.requires_grad for name in self.regions)
        return make() if learnt else self.cached(key, make)

    def region_passes(
        self, names: Sequence[str], size: Size, batch: int, device: torch.device, *, whole: bool = False
    ) -> list[RegionPass]:
        """How a grid is divided among some experts with masks and, "", what they leave (`region_passes.divided`).

        whole: each pass is over all image tokens, as it is also while somebody observes attention.
        """
        masks, whole = self.masks(size, batch, device), whole or pass_context().observed
        key = ("region passes", tuple(names), masks.data_ptr(), tuple(masks.shape), whole)
        return self.cached_from_masks(key, lambda: divided(masks, self.regions, names, whole=whole))

    def _visible_tokens(self, region: str) -> Tensor | None:
        return self._region(region).visible_tokens if region else self._rest_visible_tokens

    def _region(self, name: str) -> RegionGate:
        gate = self._values[name]
        assert isinstance(gate, RegionGate)
        return gate

    def _present(self, batch: int, device: torch.device) -> Tensor:
        """1 where an expert's mask is not empty, `[R,batch]`."""
        rows = []
        for name in self.regions:
            peak = self._region(name).mask.detach().amax((-2, -1))
            rows.append(fit_batch((peak * (name in self) > 0).float().to(device), batch, name))
        return torch.stack(rows)

    def _owned_tokens(self, name: str, tokens: int, batch: int, device: torch.device) -> Tensor:
        """The text tokens that belong to an expert, bool `[batch,tokens]`."""
        owned, context = self._region(name).owned_tokens, pass_context()
        if owned is None or not context.any_positive:
            return torch.zeros(batch, tokens, dtype=torch.bool, device=device)
        if owned.shape[1] > tokens:
            got, accepts = f"{owned.shape[1]} entries", f"at most {tokens}, the text tokens of this network"
            remedy = "Count tokens of the prompt as encoded for it."
            raise wrong_input(f"owned_tokens of {name!r}", got, accepts, remedy)
        fitted = fit_batch(F.pad(owned.to(device), (0, tokens - owned.shape[1])), batch, name)
        return fitted & context.positive_rows(batch).to(device)[:, None]

    def _all_masks(self, size: Size, batch: int, device: torch.device) -> Tensor:
        masks = torch.stack([self._mask(name, size, batch, device) for name in self.regions], 1)
        return masks / masks.sum(1, keepdim=True).clamp_min(1)

    def _mask(self, name: str, size: Size, batch: int, device: torch.device) -> Tensor:
        mask = self._region(name).mask.to(device)
        return fit_batch(F.interpolate(mask[:, None], size=size, mode="area")[:, 0], batch, name)
