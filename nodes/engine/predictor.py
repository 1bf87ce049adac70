"""Noise predictor: one call for every network that removes noise, whatever it was trained to predict.

The noisy latent is x = alpha * x0 + sigma * eps. Networks that predict noise or velocity ("v") keep
alpha^2 + sigma^2 = 1; rectified flow has alpha = 1 - t, sigma = t. t runs from 0 (clean) to 1 (noise); for networks
trained on 1000 timesteps t = timestep / 1000.

A new model family is a subclass with the abstract methods below (`diffusers_predictor.py`, `comfy_predictor.py` are the
two there are) that turns the network's output into a `Prediction` with `from_eps`, `from_v` or `from_denoised`.
Conversions live in these files and nowhere else.

The ends: eps is not determined by x and x0 where sigma is near 0, x0 not by x and eps where alpha is near 0. Divisors
are held at `SMALLEST`, so results stay finite there but say little; `from_v` divides by nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import wrong_input

if TYPE_CHECKING:
    from .gates import Gates
    from .host import Host

SMALLEST = 1e-4
TRAINED_STEPS = 1000
# The squared alpha that ComfyUI gives the last step of a schedule that ends in pure noise (arXiv:2305.08891).
ZERO_TERMINAL = 4.8973451890853435e-08
Time = float | Tensor


@dataclass(frozen=True)
class Prediction:
    """What a network says about x: its noise and its clean latent, both `[B,C,h,w]` in x's dtype."""

    eps: Tensor
    denoised: Tensor


@dataclass(frozen=True, eq=False)
class Text:
    """Encoded prompts.

    states `[B,M,D]`; pooled `[B,P]` or None; per prompt the M token `ids` and the same tokens as written, `pieces`
    ("</w>" kept); valid `[B,M]`: words, as opposed to start, end and padding; native: the host's own form, if any.
    """

    states: Tensor
    pooled: Tensor | None
    ids: list[list[int]]
    pieces: list[list[str]]
    valid: Tensor
    native: Any = None

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
        return Text(states, pooled, self.ids * count, self.pieces * count, valid, native)

    def __add__(self, other: Text) -> Text:
        """Both batches of prompts, one after the other. They must have the same number of tokens."""
        if self.states.shape[1:] != other.states.shape[1:]:
            got, accepts = list(other.states.shape), f"[B, {self.states.shape[1]}, {self.states.shape[2]}]"
            raise wrong_input("text", got, accepts, "Encode both prompts with the same encoder and length.")
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
        )


class NoisePredictor(ABC):
    """A denoising network with its autoencoder and text encoder.

    network: where experts and attention taps attach. Latents are `[B,latent_channels,H/factor,W/factor]`;
    native_size is the picture side in pixels that the network was trained at. Methods follow the caller's grad mode.
    """

    host: Host
    network: nn.Module
    latent_channels: int
    factor: int
    native_size: int

    @abstractmethod
    def predict(self, x: Tensor, t: Time, text: Text, gate: Gates | None = None) -> Prediction:
        """Noise and clean latent of x `[B,C,h,w]` at t (a number or `[B]`); text holds 1 or B prompts.

        gate: how strongly each expert acts in this call; None leaves attached experts as they are set.
        """

    @abstractmethod
    def alpha_sigma(self, t: Time) -> tuple[Tensor, Tensor]:
        """alpha and sigma at t, shaped like t (a number gives 0-dimensional tensors)."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images `[B,3,H,W]` in 0..1; H and W multiples of `factor`."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images `[B,3,H,W]`, clamped to 0..1."""

    @abstractmethod
    def encode_text(self, texts: list[str]) -> Text:
        """Encode prompts."""

    @abstractmethod
    def loaded(self) -> AbstractContextManager[Any]:
        """Everything on the device and ready to predict, for the length of a `with` block."""

    def gradients(self, *, decode: bool = False) -> AbstractContextManager[Any]:
        """A block in which `predict` may be differentiated, also where the host switched gradients off.

        decode: whether `decode` is differentiated too. Make or clone the tensors that require grad inside the block.
        """
        return nullcontext() if torch.is_grad_enabled() else torch.enable_grad()

    def predict_pair(
        self, x: Tensor, t: Time, text: Text, negative: Text, gate: Gates | None = None
    ) -> tuple[Prediction, Prediction]:
        """`predict` for two prompts on the same x, in one batched call; the gate acts on both (it repeats)."""
        count = len(x)
        both = text.repeat(count) + negative.repeat(count)
        times = t.repeat(2) if isinstance(t, Tensor) and t.ndim else t
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


def like(value: Tensor, x: Tensor) -> Tensor:
    """A 0-dimensional or `[B]` value on x's device, at least float32, shaped to multiply x `[B,...]`."""
    value = value.to(x.device, torch.promote_types(x.dtype, torch.float32))
    return value.reshape(-1, *[1] * (x.ndim - 1)) if value.ndim else value


def from_eps(x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
    """The prediction of a network that gives the noise; alpha, sigma 0-dimensional or `[B]`."""
    alpha, sigma = like(alpha, x), like(sigma, x)
    return Prediction(eps.to(x.dtype), ((x - sigma * eps) / alpha.clamp_min(SMALLEST)).to(x.dtype))


def from_v(x: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
    """The prediction of a network that gives v = alpha * eps - sigma * x0 (Salimans and Ho, arXiv:2202.00512)."""
    alpha, sigma = like(alpha, x), like(sigma, x)
    return Prediction((sigma * x + alpha * v).to(x.dtype), (alpha * x - sigma * v).to(x.dtype))


def from_denoised(x: Tensor, denoised: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
    """The prediction of a network, or of a host, that gives the clean latent."""
    alpha, sigma = like(alpha, x), like(sigma, x)
    return Prediction(((x - alpha * denoised) / sigma.clamp_min(SMALLEST)).to(x.dtype), denoised.to(x.dtype))


def timestep_of(t: Time) -> Tensor:
    """The table position t * 1000, cut to 0..999; float64 for numbers."""
    t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
    return (t * TRAINED_STEPS).clamp(0, TRAINED_STEPS - 1)


def alpha_sigma_of_table(log_ratios: Tensor, t: Time) -> tuple[Tensor, Tensor]:
    """alpha and sigma at t from a table `[1000]` of log(sigma / alpha), as ComfyUI's ModelSamplingDiscrete reads it.

    Linear between the entries, constant beyond them: t = 0 still holds a little noise.
    """
    position = timestep_of(t)
    table = log_ratios.to(position.device)
    low = position.floor().long()
    log_ratio = torch.lerp(table[low], table[(low + 1).clamp_max(len(table) - 1)], (position - low).to(table.dtype))
    alpha, sigma = (-2 * log_ratio).sigmoid().sqrt(), (2 * log_ratio).sigmoid().sqrt()
    dtype = t.dtype if isinstance(t, Tensor) and t.dtype == torch.float64 else torch.float32
    return alpha.to(dtype), sigma.to(dtype)
