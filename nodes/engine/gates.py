"""Gates: how strongly each expert acts, as one number, per image of the batch, or per place in the image.

Masks are given once, in any resolution, and read at every layer's own grid. Overlapping masks share a place: where
they sum to more than 1 they are divided by their sum (specification: RegionRoute 10.3).

In a joint attention (FLUX, SD3) the text has rows of its own, which no mask reaches. There an expert with a mask acts
fully on the text tokens that are its own, not at all on those of another expert, and on tokens that nobody owns with
1/E, E being the experts with a mask on that image, or not at all (`Gates.shared_text`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import RegionStyleError, wrong_input

Size = tuple[int, int]

# While a cross-attention runs once per region, the share `[B,N]` of the running pass in the layer's output.
# Whoever observes attention (AttentionTap) weights what it sees by it.
attention_share: ContextVar[Tensor | None] = ContextVar("attention_share", default=None)


_positive_blocks: ContextVar[tuple[bool, ...] | None] = ContextVar("positive_blocks", default=None)


@contextmanager
def prompts_of_batch(positive: Sequence[bool]) -> Iterator[None]:
    """Inside, batches hold the images once per prompt; positive: whether that prompt is the one that words count in."""
    token = _positive_blocks.set(tuple(positive))
    try:
        yield
    finally:
        _positive_blocks.reset(token)


@dataclass(frozen=True, eq=False)
class RegionGate:
    """An expert at `strength` inside a mask.

    mask `[B or 1,H,W]` or `[H,W]` in 0..1, in the resolution of the image, of the latent, or any other. Unlike a mask
    multiplied by a number, a strength also changes the expert itself where keys and values come from the text.

    words: bool `[B or 1,L]` or `[L]`, the text tokens of the (positive) prompt that name this expert's style or object;
    tokens after the L-th are nobody's. It matters in joint attentions only; cross-attentions are blended by the mask.
    """

    mask: Tensor
    strength: float = 1.0
    words: Tensor | None = None


# A number; a tensor `[]` or `[B]`; a mask `[B or 1,H,W]` or `[H,W]`, which is short for RegionGate(mask).
Gate = float | Tensor | RegionGate


@dataclass(frozen=True, eq=False)
class Gates:
    """Expert name -> gate; experts without an entry are off.

    Tensors have one entry for each image, or one for all; they repeat when a batch holds the images several times,
    one block of images after the other (positive and negative prompt). pooled: what a mask means for layers without
    places, such as the time embedding or a modulation: "mean" (its average over the image) or "off". shared_text: what
    it means for the text tokens of a joint attention that no expert owns: "share" (1/E each) or "off".
    """

    values: Mapping[str, Gate] = field(default_factory=dict)
    pooled: Literal["mean", "off"] = "mean"
    shared_text: Literal["share", "off"] = "share"


class ActiveGates:
    """Gates of one call, checked, ready to be read layer by layer. Experts that are off everywhere are left out.

    regions: names of the experts with a mask, in order.
    """

    def __init__(self, gates: Gates, names: Iterable[str]) -> None:
        """RegionStyleError for a name that is not in `names` and for a gate of the wrong kind, shape or range."""
        known = list(names)
        if unknown := [name for name in gates.values if name not in known]:
            raise wrong_input("gates", f"experts {unknown}", f"some of {known}", "Name experts that are attached.")
        if gates.pooled not in ("mean", "off"):
            raise wrong_input("gates.pooled", repr(gates.pooled), "'mean' or 'off'", "Correct the option.")
        if gates.shared_text not in ("share", "off"):
            raise wrong_input("gates.shared_text", repr(gates.shared_text), "'share' or 'off'", "Correct the option.")
        checked = {name: _checked(name, gate) for name, gate in gates.values.items()}
        self._values = {name: gate for name, gate in checked.items() if gate is not None}
        self.pooled, self.shared_text = gates.pooled, gates.shared_text
        self.regions = tuple(name for name, gate in self._values.items() if isinstance(gate, RegionGate))
        self._resized: dict[Any, Tensor] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def batch_sizes(self) -> dict[str, int]:
        """Entries of each gate that is a tensor or a mask."""
        tensors = {name: g.mask if isinstance(g, RegionGate) else g for name, g in self._values.items()}
        return {name: len(tensor) for name, tensor in tensors.items() if isinstance(tensor, Tensor)}

    def strength(self, region: str) -> float:
        return self._region(region).strength

    def per_image(self, name: str, batch: int, device: torch.device) -> Tensor:
        """The gate of an expert without a mask, `[batch]`."""
        gate = self._values[name]
        if isinstance(gate, Tensor):
            return fit_batch(gate.to(device), batch, name)
        return torch.full((batch,), float(gate), device=device)  # type: ignore[arg-type]

    def per_place(self, name: str, size: Size, batch: int, device: torch.device) -> Tensor:
        """strength * mask of an expert with a mask, on a grid: `[batch,h,w]`."""
        return self.masks(size, batch, device)[:, self.regions.index(name)] * self.strength(name)

    def averaged(self, name: str, size: Size, batch: int, device: torch.device) -> Tensor | None:
        """strength * mean of the mask, `[batch]`; None with `pooled="off"`."""
        return None if self.pooled == "off" else self.per_place(name, size, batch, device).mean((-2, -1))

    def over_image(self, name: str, grids: Sequence[Size], batch: int, device: torch.device) -> Tensor:
        """strength * mask of an expert with a mask, one value per image token of all grids in turn: `[batch,N]`."""
        return torch.cat([self.per_place(name, size, batch, device).flatten(1) for size in grids], 1)

    def over_text(self, name: str, tokens: int, batch: int, device: torch.device) -> Tensor:
        """The gate of an expert with a mask on the text tokens of a joint attention, `[batch,tokens]`.

        The rule of RegionRoute 10.3. In texts other than the positive prompt (`prompts_of_batch`) every token is
        shared. An expert whose mask is empty on an image is off there, and not counted.
        """
        present = self._present(batch, device)
        owned = torch.stack([self._words(other, tokens, batch, device) for other in self.regions])
        own, shared = owned[self.regions.index(name)], ~owned.any(0)
        part = 1 / present.sum(0).clamp_min(1) if self.shared_text == "share" else present.new_zeros(batch)
        gate = own.to(part) + shared.to(part) * part[:, None]
        return gate * (present[self.regions.index(name)] * self.strength(name))[:, None]

    def masks(self, size: Size, batch: int, device: torch.device) -> Tensor:
        """All masks on a grid, `[batch,R,h,w]` in the order of `regions`, nowhere summing to more than 1."""
        # Tensors made in inference mode cannot take part in a later backward pass, so they are not shared with it.
        key = (size, batch, device, torch.is_inference_mode_enabled(), torch.is_grad_enabled())
        if key not in self._resized:
            self._resized[key] = torch.stack([self._mask(name, size, batch, device) for name in self.regions], 1)
            self._resized[key] = self._resized[key] / self._resized[key].sum(1, keepdim=True).clamp_min(1)
        return self._resized[key]

    def _region(self, name: str) -> RegionGate:
        gate = self._values[name]
        assert isinstance(gate, RegionGate)
        return gate

    def _present(self, batch: int, device: torch.device) -> Tensor:
        """1 where an expert's mask is not empty, `[R,batch]`."""
        masks = {name: self._region(name).mask.detach() for name in self.regions}
        found = {name: (mask.amax((-2, -1)) > 0).float().to(device) for name, mask in masks.items()}
        return torch.stack([fit_batch(value, batch, name) for name, value in found.items()])

    def _words(self, name: str, tokens: int, batch: int, device: torch.device) -> Tensor:
        """The text tokens that belong to an expert, bool `[batch,tokens]`."""
        words, positive = self._region(name).words, _positive_blocks.get() or (True,)
        if words is None or not any(positive):
            return torch.zeros(batch, tokens, dtype=torch.bool, device=device)
        if words.shape[1] > tokens:
            got, accepts = f"{words.shape[1]} entries", f"at most {tokens}, the text tokens of this network"
            raise wrong_input(f"words of {name!r}", got, accepts, "Count tokens of the prompt as encoded for it.")
        owned = fit_batch(F.pad(words.to(device), (0, tokens - words.shape[1])), batch, name)
        blocks = torch.tensor(positive, device=device)
        return owned & blocks.repeat_interleave(batch // len(blocks))[:, None]

    def _mask(self, name: str, size: Size, batch: int, device: torch.device) -> Tensor:
        mask = self._region(name).mask.to(device)
        return fit_batch(F.interpolate(mask[:, None], size=size, mode="area")[:, 0], batch, name)


def fit_batch(value: Tensor, batch: int, name: str) -> Tensor:
    """Repeat the entries of a gate over a batch that holds the images once or several times."""
    if batch % len(value):
        accepts = f"1 or the number of images (the batch has {batch} entries)"
        raise wrong_input(f"gate of {name!r}", f"{len(value)} entries", accepts, "Give one mask, or one per image.")
    return value.repeat(batch // len(value), *[1] * (value.ndim - 1))


def token_grid(latent: Size | None, tokens: int) -> Size:
    """Rows and columns of `tokens` image tokens in a network that has halved the latent, rounding up, some times.

    RegionStyleError when no halving gives that many.
    """
    size, last = latent, None
    while size is not None and size != last:
        if size[0] * size[1] == tokens:
            return size
        size, last = (-(-size[0] // 2), -(-size[1] // 2)), size
    shown = "unknown" if latent is None else f"{latent[0]}x{latent[1]}"
    raise RegionStyleError(
        f"image tokens: got {tokens} for a latent of size {shown}, expected the latent's size halved some times. "
        "A patch that merges or tiles tokens cannot be combined with masks or attention maps: switch it off."
    )


def latent_size(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Size:
    """Height and width of the latent that a U-Net is called with (its first argument: `sample`, `x`)."""
    x = args[0] if args else next(kwargs[name] for name in ("sample", "x") if name in kwargs)
    return x.shape[-2], x.shape[-1]


def _checked(name: str, gate: Gate) -> float | Tensor | RegionGate | None:
    """The gate in its plain form; None where it is off everywhere."""
    if isinstance(gate, Tensor) and gate.ndim in (2, 3):
        gate = RegionGate(gate)
    if isinstance(gate, Tensor) and gate.ndim == 0:
        gate = gate[None]
    if isinstance(gate, RegionGate):
        return _checked_region(name, gate)
    if isinstance(gate, Tensor) and gate.ndim == 1 and len(gate):
        return _float(gate) if gate.requires_grad or bool(gate.any()) else None
    if isinstance(gate, Tensor) and gate.ndim:
        raise wrong_input(f"gate of {name!r}", list(gate.shape), "[B], [H,W] or [B,H,W]", "Reshape it.")
    number = float(gate)
    if number != number or number in (float("inf"), float("-inf")):
        raise wrong_input(f"gate of {name!r}", number, "a finite number", "Correct it.")
    return number or None


def _checked_region(name: str, gate: RegionGate) -> RegionGate | None:
    mask = gate.mask if gate.mask.ndim == 3 else gate.mask[None]
    if mask.ndim != 3 or not mask.numel():
        raise wrong_input(f"mask of {name!r}", list(gate.mask.shape), "[H,W] or [B,H,W]", "Reshape it.")
    low, high = (float(value) for value in mask.detach().float().aminmax())
    if not (low >= 0 and high <= 1):
        raise wrong_input(f"mask of {name!r}", f"{low:g}..{high:g}", "0..1", "Scale it, or use RegionGate's strength.")
    if gate.strength == 0 or (high == 0 and not mask.requires_grad):
        return None
    return RegionGate(_float(mask), float(gate.strength), _checked_words(name, gate.words))


def _checked_words(name: str, words: Tensor | None) -> Tensor | None:
    if words is None:
        return None
    if words.dtype != torch.bool or words.ndim not in (1, 2):
        got = f"{str(words.dtype).removeprefix('torch.')} {list(words.shape)}"
        raise wrong_input(f"words of {name!r}", got, "bool [L] or [B,L]", "Mark the tokens with True.")
    return words if words.ndim == 2 else words[None]


def _float(value: Tensor) -> Tensor:
    """In float32 or better."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
