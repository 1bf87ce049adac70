"""Noise predictor: one call for every network that removes noise, whatever it was trained to predict.

x = alpha * x0 + sigma * eps; t runs from 0 (clean) to 1 (noise) and means the same amount of noise in every family.
The levels and the conversions between noise, velocity, flow and clean latent are in `schedule.py` and nowhere else.

What is known of a model family is in `families`. A new host is a subclass with the abstract methods below
(`diffusers.py` and `comfy.py` are the two there are).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import wrong_input
from ..host.context import pass_context, prompts_of_batch, running_slice
from ..host.memory import BatchSlice, in_parts
from .inpainting import GREY, Inpainting, latent_mask, masked_pictures
from .recogniser import Recogniser
from .reference import check_references, reference_rows
from .schedule import Prediction, Time, like

if TYPE_CHECKING:
    from ..adapters.gates import Gates
    from ..host.base import Host

Size = tuple[int, int]


@dataclass(frozen=True)
class Extras:
    """What some networks are told beside the words. None: the family's own default.

    guidance: the scale, for networks distilled with one. original, target: (height, width) in pixels of the picture
    the network should think of and of the part it shows, crop: (top, left) of that part, for networks that are told
    sizes (default: the size of the latent's picture, uncropped).
    """

    guidance: float | None = None
    original: Size | None = None
    crop: Size | None = None
    target: Size | None = None

    def given(self) -> list[str]:
        """The names of those that are set."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def check(self, read: tuple[str, ...]) -> None:
        """RegionStyleError for extras that a network would not read; read: the names of those it does."""
        if unread := [name for name in self.given() if name not in read]:
            accepts = f"only {', '.join(read)}" if read else "none of them"
            raise wrong_input("text.extras", ", ".join(unread), accepts, "This network does not read the others.")


@dataclass(frozen=True, eq=False)
class Text:
    """Encoded prompts.

    states `[B,M,D]`; pooled `[B,P]` or None; per prompt the M token `ids` and the same tokens as written, `pieces`
    ("</w>" kept); valid `[B,M]`: words, as opposed to start, end and padding; native: the host's own form, if any;
    extras: for all prompts of this batch, set with `dataclasses.replace(text, extras=Extras(...))`; parts: the lengths
    of what several encoders put one after the other along the token axis (empty: one encoder made all of it).
    """

    states: Tensor
    pooled: Tensor | None
    ids: list[list[int]]
    pieces: list[list[str]]
    valid: Tensor
    native: Any = None
    extras: Extras = Extras()
    parts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.states)

    def repeat(self, count: int) -> Text:
        """One prompt for `count` images; unchanged when there are `count` prompts already."""
        if len(self) == count:
            return self
        if len(self) != 1:
            raise wrong_input("text", f"{len(self)} prompts", f"1 or {count}", "Give one prompt, or one per image.")
        pooled = None if self.pooled is None else self.pooled.expand(count, -1)
        states, valid = self.states.expand(count, -1, -1), self.valid.expand(count, -1)
        native = None if self.native is None else self.native * count
        return Text(states, pooled, self.ids * count, self.pieces * count, valid, native, self.extras, self.parts)

    def rows(self, part: BatchSlice) -> Text:
        """The prompts of a part of the batch; one prompt for all stays as it is."""
        if len(self) != part.total or part.whole:
            return self
        rows = part.rows
        native = self.native[rows] if self.native is not None and len(self.native) == len(self) else self.native
        pooled = None if self.pooled is None else self.pooled[rows]
        ids, pieces = self.ids[rows], self.pieces[rows]
        return Text(self.states[rows], pooled, ids, pieces, self.valid[rows], native, self.extras, self.parts)

    def __add__(self, other: Text) -> Text:
        """Both batches of prompts, one after the other. They must have the same number of tokens."""
        if self.states.shape[1:] != other.states.shape[1:]:
            got, accepts = list(other.states.shape), f"[B, {self.states.shape[1]}, {self.states.shape[2]}]"
            raise wrong_input("text", got, accepts, "Encode both prompts with the same encoder and length.")
        if self.extras != other.extras:
            both = f"{self.extras} and {other.extras}"
            raise wrong_input("text.extras", both, "equal ones", "Run the prompts one by one.")
        pooled = None
        if self.pooled is not None and other.pooled is not None:
            pooled = torch.cat([self.pooled, other.pooled])
        native = None if self.native is None or other.native is None else self.native + other.native
        return Text(
            torch.cat([self.states, other.states]),
            pooled,
            self.ids + other.ids,
            self.pieces + other.pieces,
            torch.cat([self.valid, other.valid]),
            native,
            self.extras,
            self.parts,
        )


PredictFn = Callable[[Tensor, Time, list[Text]], list[Prediction]]


class NoisePredictor(ABC):
    """A denoising network with its autoencoder and text encoder.

    network: where experts and attention taps attach. Latents are `[B,latent_channels,H/factor,W/factor]`;
    native_size is the picture side in pixels that the network was trained at. predicts: what the network was trained
    to give, "eps", "v" or "flow". inpaints: whether the network is told where to redraw and the picture around it.
    on_host: its host's name, as families write it; extras_read: names of the `Extras` that the network reads.
    recogniser: says whether a place shows what words name, where the model brings one along. Methods follow the
    caller's grad mode.
    """

    host: Host
    network: nn.Module
    latent_channels: int
    factor: int
    native_size: int
    predicts: str
    inpaints: bool = False
    on_host: str
    extras_read: tuple[str, ...] = ()
    _reference: Tensor | None = None
    _inpainting: Inpainting | None = None
    _all_new: Inpainting | None = None  # to redraw everything: at the size it was last asked for
    recogniser: Recogniser | None = None

    @abstractmethod
    def predict(self, x: Tensor, t: Time, text: Text, gate: Gates | None = None) -> Prediction:
        """Noise and clean latent of x `[B,C,h,w]` at t (a number or `[B]`); text holds 1 or B prompts.

        gate: how strongly each expert acts in this call; None leaves attached experts as they are set. Where memory is
        short the batch is halved; RegionStyleError when there is none for one image.
        """

    def _in_parts(self, call: PredictFn, x: Tensor, t: Time, texts: Sequence[Text]) -> list[Prediction]:
        """call(x, t, texts), one prediction per text, or in parts of the batch where memory is short.

        Gates and attention taps stay those of the whole batch meanwhile (`running_slice`).
        """

        def of_part(part: BatchSlice) -> list[Prediction]:
            with running_slice(part):
                times = t[part.rows] if isinstance(t, Tensor) and t.ndim and len(t) == part.total else t
                return call(x[part.rows], times, [text.rows(part) for text in texts])

        parts = in_parts(of_part, len(x), host=self.host, name="latents")
        return parts[0] if len(parts) == 1 else [_joined(predictions) for predictions in zip(*parts, strict=True)]

    @abstractmethod
    def alpha_sigma(self, t: Time) -> tuple[Tensor, Tensor]:
        """alpha and sigma at t, shaped like t (a number gives 0-dimensional tensors)."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images `[B,3,H,W]` in 0..1, nothing random; H and W multiples of `factor`."""

    @abstractmethod
    def encode_sample(self, images: Tensor, random: torch.Generator) -> Tensor:
        """As `encode`, but a draw from the autoencoder's distribution; random: a generator on the CPU.

        RegionStyleError for an autoencoder without a distribution.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images `[B,3,H,W]`, clamped to 0..1."""

    def preview(self, latents: Tensor) -> Tensor:
        """Images `[B,3,H',W']` to look at while a run goes on; where the latents are large they may be small."""
        return self.decode(latents)

    @abstractmethod
    def encode_text(self, texts: list[str]) -> Text:
        """Encode prompts."""

    @abstractmethod
    def loaded(self) -> AbstractContextManager[Any]:
        """Everything on the device and ready to predict, for the length of a `with` block."""

    @contextmanager
    def inpainting(self, images: Tensor, masks: Tensor) -> Iterator[None]:
        """Inside, a network for inpainting is told to redraw pictures `[P,3,H,W]` where masks `[P or 1,H,W]` are 1.

        Outside such a block it is told to redraw everything. Other networks are told nothing. The batches predicted
        inside hold the pictures once or several times, one block after the other.
        """
        told = None
        if self.inpaints:
            masks = masks.expand(len(images), -1, -1)
            with torch.no_grad():
                latents = self.encode(masked_pictures(images, masks))
            told = Inpainting(latent_mask(masks, (latents.shape[-2], latents.shape[-1])).to(latents), latents)
        with self.telling(told):
            yield

    @contextmanager
    def telling(self, told: Inpainting | None) -> Iterator[None]:
        """Inside, a network for inpainting is told this; None: what it was told before."""
        before = self._inpainting
        self._inpainting = before if told is None else told
        try:
            yield
        finally:
            self._inpainting = before

    @contextmanager
    def showing(self, latents: Tensor) -> Iterator[None]:
        """Inside, the network sees reference pictures beside its own: latents `[P,C,k,l]`, one for each of P pictures.

        The batches predicted inside hold the pictures once or several times, one block after the other.
        RegionStyleError for a network that sees none.
        """
        check_references(self.network, self.on_host, latents, self.latent_channels)
        before, self._reference = self._reference, latents
        try:
            yield
        finally:
            self._reference = before

    def _shown(self, x: Tensor) -> Tensor | None:
        """What is shown beside latents `[B,C,h,w]`, a row for each; None where nothing is."""
        if self._reference is None:
            return None
        return reference_rows(self._reference, len(x), pass_context().batch_slice).to(x)

    def _told_to_inpaint(self, x: Tensor) -> Inpainting | None:
        """What the network is told of latents `[B,C,h,w]`, a row for each; None where it is told nothing."""
        if not self.inpaints:
            return None
        if self._inpainting is not None:
            return self._inpainting.rows(len(x), pass_context().batch_slice)
        if self._all_new is None or self._all_new.mask.shape[-2:] != x.shape[-2:]:
            height, width = (side * self.factor for side in x.shape[-2:])
            with torch.no_grad():
                latents = self.encode(torch.full((1, 3, height, width), GREY, device=x.device))
            self._all_new = Inpainting(torch.ones_like(latents[:, :1]), latents)
        return self._all_new.rows(len(x), None)

    def gradients(self, *, decode: bool = False) -> AbstractContextManager[Any]:
        """A block in which `predict` may be differentiated, also where the host switched gradients off.

        decode: whether `decode` is differentiated too. Make or clone the tensors that require grad inside the block.
        """
        return nullcontext() if torch.is_grad_enabled() else torch.enable_grad()

    def checkpointed(self) -> AbstractContextManager[Any]:
        """A block inside `gradients()` in which activations are computed twice instead of kept. RegionStyleError for a
        predictor that cannot."""
        raise wrong_input("checkpointing", "on", "off for this way of predicting", "Switch it off.")

    def predict_pair(
        self, x: Tensor, t: Time, text: Text, negative: Text, gate: Gates | None = None
    ) -> tuple[Prediction, Prediction]:
        """`predict` for two prompts on the same x, in one batched call; the gate acts on both (it repeats)."""
        count = len(x)
        both = text.repeat(count) + negative.repeat(count)
        self.check_times(t, count)
        times = t.expand(count).repeat(2) if isinstance(t, Tensor) and t.ndim else t
        with prompts_of_batch((True, False)):
            result = self.predict(torch.cat([x, x]), times, both, gate)
        (eps, eps_negative), (clean, clean_negative) = result.eps.chunk(2), result.denoised.chunk(2)
        return Prediction(eps, clean), Prediction(eps_negative, clean_negative)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """The noisy latent alpha * x0 + sigma * eps, in x0's dtype."""
        alpha, sigma = (like(v, x0) for v in self.alpha_sigma(t))
        return (alpha * x0 + sigma * eps).to(x0.dtype)

    def check_images(self, images: Tensor) -> None:
        """RegionStyleError unless the images are `[B,3,H,W]` with sides that the autoencoder can halve."""
        if images.ndim != 4 or images.shape[1] != 3 or any(side % self.factor or not side for side in images.shape[2:]):
            accepts = f"[B,3,H,W] with H and W multiples of {self.factor}"
            raise wrong_input("images", list(images.shape), accepts, "Cut them out with RegionCrop, or pad them.")

    def check_latents(self, x: Tensor) -> None:
        """RegionStyleError unless x has this network's channels."""
        if x.ndim != 4 or x.shape[1] != self.latent_channels:
            accepts = f"[B,{self.latent_channels},h,w]"
            raise wrong_input("latents", list(x.shape), accepts, "Encode the picture with this model's autoencoder.")

    def check_times(self, t: Time, count: int) -> None:
        """RegionStyleError unless t is a number, or has one entry for all images or for each of them."""
        if isinstance(t, Tensor) and t.ndim and (t.ndim > 1 or len(t) not in (1, count)):
            raise wrong_input("t", f"shape {list(t.shape)}", f"a number or [{count}]", "Give one time per latent.")


def _joined(parts: Sequence[Prediction]) -> Prediction:
    return Prediction(torch.cat([part.eps for part in parts]), torch.cat([part.denoised for part in parts]))
