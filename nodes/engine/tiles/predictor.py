"""A network of one native size as a noise predictor over a larger canvas: for methods that optimise a picture.

Where a sampler fuses the tiles' clean estimates (`denoise.py`), a method that asks for the noise of a whole canvas gets
the tiles' predictions fused in the same way: at one noise level both are linear in each other (Bar-Tal et al.,
MultiDiffusion, arXiv:2302.08113, equation 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..adapters.gates import Gate, Gates, RegionGate
from ..predictor.base import NoisePredictor, Prediction, Text
from ..predictor.inpainting import Inpainting, latent_mask, masked_pictures
from ..predictor.schedule import Time
from .grid import Corner, Fusion, TileGrid, shrunk

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class Piece:
    """What a network sees at once of a latent: a tile of it, or all of it.

    cut: the piece's part of latents `[B,C,h,w]`; predict: as `NoisePredictor.predict`, of such a part; share: how much
    it counts at each of its places, in 0..1, all pieces adding up to 1 (None: everywhere 1); covered: how many places
    of the latent lie in a piece (None: all).
    """

    cut: Callable[[Tensor], Tensor]
    predict: Callable[..., Prediction]
    share: Tensor | None = None
    covered: int | None = None


def pieces_of(predictor: NoisePredictor) -> Sequence[Piece]:
    """The tiles of a `TiledPredictor`; of any other one piece, which is the whole."""
    if isinstance(predictor, TiledPredictor):
        return predictor.pieces
    return [Piece(lambda latent: latent, predictor.predict)]


def covered_by(predictor: NoisePredictor) -> Tensor | None:
    """The latent cells `[h,w]` that a tile of a `TiledPredictor` lies on; None for any other, which sees all."""
    return predictor.covered if isinstance(predictor, TiledPredictor) else None


class TiledPredictor(NoisePredictor):
    """A predictor whose pictures are canvases of one size, as many as there are: every call goes tile by tile.

    Where no tile lies latents, noise and pictures are 0. All tiles read the same prompt.
    """

    def __init__(self, inner: NoisePredictor, grid: TileGrid, corners: Sequence[Corner]) -> None:
        """inner: whose tiles have the grid's side; corners: the tiles that are worked on, one or more."""
        self.inner, self.grid, self.corners = inner, grid, tuple(corners)
        self.host, self.network = inner.host, inner.network
        self.latent_channels, self.factor, self.native_size = inner.latent_channels, inner.factor, inner.native_size
        self.predicts, self.inpaints, self.recogniser = inner.predicts, inner.inpaints, inner.recogniser
        self._told: dict[Corner, Inpainting] = {}
        self._weight = self._laid(lambda weight: weight)

    @property
    def covered(self) -> Tensor:
        """The cells `[h,w]` that a tile lies on, bool."""
        return self._weight > 0

    @property
    def pieces(self) -> Sequence[Piece]:
        """The tiles one by one, for losses whose graphs are not to be held all together."""
        return [self._piece(corner) for corner in self.corners]

    def predict(self, x: Tensor, t: Time, text: Text, gate: Gates | None = None) -> Prediction:
        """Fused over the tiles; masks of the gate cover the canvas, `[H,W]`, `[1,H,W]` or one for each row of x."""
        eps, denoised = (_fusion(self.grid, x, 1) for _ in range(2))
        for corner in self.corners:
            made = self._predict(corner, self._cut(x, corner), t, text, gate)
            eps.add(corner, made.eps)
            denoised.add(corner, made.denoised)
        return Prediction(eps.result().to(x), denoised.result().to(x))

    def alpha_sigma(self, t: Time) -> tuple[Tensor, Tensor]:
        return self.inner.alpha_sigma(t)

    def encode(self, images: Tensor) -> Tensor:
        return self._over_tiles(images, self.inner.encode, (self.factor, 1))

    def encode_sample(self, images: Tensor, random: torch.Generator) -> Tensor:
        """The tiles' own draws, fused so that they deviate as far where several tiles lie as where one does."""

        def deviation(tile: Tensor) -> Tensor:
            return self.inner.encode_sample(tile, random) - self.inner.encode(tile)

        mean, drawn = self.encode(images), self._over_tiles(images, deviation, (self.factor, 1))
        # A mean of independent draws with weights w / sum(w) is narrower by this.
        narrower = self._laid(torch.square).sqrt() / self._weight.clamp_min(TINY)
        return mean + drawn / narrower.to(drawn).clamp_min(TINY)

    def decode(self, latents: Tensor) -> Tensor:
        return self._over_tiles(latents, self.inner.decode, (1, self.factor))

    def preview(self, latents: Tensor) -> Tensor:
        """Small pictures: their longer side is the native size."""
        return self.inner.preview(shrunk(self.grid, latents))

    def encode_text(self, texts: list[str]) -> Text:
        return self.inner.encode_text(texts)

    def loaded(self) -> AbstractContextManager[Any]:
        return self.inner.loaded()

    def gradients(self, *, decode: bool = False) -> AbstractContextManager[Any]:
        return self.inner.gradients(decode=decode)

    @contextmanager
    def inpainting(self, images: Tensor, masks: Tensor) -> Iterator[None]:
        """As the network's own, each tile told its part of the canvases and masks."""
        before = self._told
        if self.inpaints:
            self._told = {corner: self._inpainting_of(corner, images, masks) for corner in self.corners}
        try:
            yield
        finally:
            self._told = before

    @torch.no_grad()
    def _inpainting_of(self, corner: Corner, images: Tensor, masks: Tensor) -> Inpainting:
        pictures = self._cut(images, corner, self.factor)
        cut = self._cut(masks.expand(len(images), -1, -1), corner, self.factor)
        latents = self.inner.encode(masked_pictures(pictures, cut))
        return Inpainting(latent_mask(cut, (self.grid.side, self.grid.side)).to(latents), latents)

    def _piece(self, corner: Corner) -> Piece:
        share = self.grid.weight() / self._cut(self._weight, corner)
        return Piece(
            lambda latent: self._cut(latent, corner), partial(self._predict, corner), share, int(self.covered.sum())
        )

    def _predict(self, corner: Corner, x: Tensor, t: Time, text: Text, gate: Gates | None = None) -> Prediction:
        """Of one tile x `[B,C,n,n]`."""
        told = self._told.get(corner)
        with nullcontext() if told is None else self.inner.telling(told):
            return self.inner.predict(x, t, text, None if gate is None else self._gates(gate, corner))

    def _gates(self, gates: Gates, corner: Corner) -> Gates:
        return replace(gates, values={name: self._gate(gate, corner) for name, gate in gates.values.items()})

    def _gate(self, gate: Gate, corner: Corner) -> Gate:
        if isinstance(gate, Tensor) and gate.ndim >= 2:
            gate = RegionGate(gate)
        if not isinstance(gate, RegionGate):
            return gate
        mask = gate.mask if gate.mask.ndim == 3 else gate.mask[None]
        size = (self.grid.height * self.factor, self.grid.width * self.factor)
        if mask.shape[-2:] != size:
            mask = F.interpolate(mask[:, None].float(), size, mode="bilinear", antialias=True)[:, 0]
        return replace(gate, mask=self._cut(mask, corner, self.factor))

    def _over_tiles(self, values: Tensor, work: Callable[[Tensor], Tensor], scales: tuple[int, int]) -> Tensor:
        """work over the tiles of canvases `[B,C,H,W]`, fused; scales: values per cell before and after."""
        fusion: Fusion | None = None
        for corner in self.corners:
            self.host.check()
            made = work(self._cut(values, corner, scales[0]))
            fusion = fusion or _fusion(self.grid, made, scales[1])
            fusion.add(corner, made)
        assert fusion is not None
        return fusion.result().to(made)

    def _cut(self, values: Tensor, corner: Corner, scale: int = 1) -> Tensor:
        """The part of canvases `[...,H,W]` with `scale` values per cell that a tile lies on."""
        rows, columns = (slice(at * scale, (at + self.grid.side) * scale) for at in corner)
        return values[..., rows, columns]

    def _laid(self, of_weight: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum over the tiles of a function of their weights, `[h,w]`."""
        result, weight = torch.zeros(self.grid.height, self.grid.width), of_weight(self.grid.weight())
        for corner in self.corners:
            self._cut(result, corner).add_(weight)
        return result


def _fusion(grid: TileGrid, like: Tensor, scale: int) -> Fusion:
    """For tiles `[B,C,n,n]` like this one."""
    return Fusion(grid, tuple(like.shape[:2]), scale, like.device, torch.promote_types(like.dtype, torch.float32))
