"""The noise predictor over diffusers components. Which networks: `families/registry.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import wrong_input
from ..families.base import DIFFUSERS
from ..families.registry import denoiser_of
from ..host.context import pass_context
from ..host.memory import batched
from .base import NoisePredictor, Text
from .schedule import CONVERSIONS, Prediction, Time

if TYPE_CHECKING:
    from ..adapters.gates import Gates
    from ..adapters.stack import ExpertStack
    from ..host.base import Host


class DiffusersPredictor(NoisePredictor):
    """Network + AutoencoderKL or AutoencoderTiny + the family's text encoders and tokenizers, in its own order.

    One text encoder and tokenizer, or tuples of them (which: `ModelFamily.encode_text`). Networks run in their own
    dtype, results come in the dtype of the input.
    """

    on_host = DIFFUSERS

    def __init__(
        self,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        host: Host,
        experts: ExpertStack | None = None,
    ) -> None:
        """unet: the network, a transformer too; scheduler gives alphas_cumprod and prediction_type (flow: unused).

        RegionStyleError for networks of another family.
        """
        self._denoiser = denoiser_of(unet, scheduler)
        self.unet, self.vae, self.text_encoder, self.tokenizer = unet, vae, text_encoder, tokenizer
        self.host, self.network, self.experts = host, unet, experts
        self.latent_channels, self.inpaints = self._denoiser.latent_channels, self._denoiser.inpaints
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.native_size = self.factor * self._denoiser.native_side
        self.predicts, self.extras_read = self._denoiser.predicts, self._denoiser.extras

    def alpha_sigma(self, t: Time) -> tuple[Tensor, Tensor]:
        """The family's noise levels, continuous in t; see `schedule.py`."""
        return self._denoiser.schedule.alpha_sigma(t)

    def predict(self, x: Tensor, t: Time, text: Text, gate: Gates | None = None) -> Prediction:
        """One forward of the network. With a gate, the experts have it for this call only."""
        self.check_latents(x)
        self.check_times(t, len(x))
        text.extras.check(self._denoiser.extras)
        if gate is None:
            return self._forward(x, t, text)
        if self.experts is None or not self.experts.attached:
            names = ", ".join(gate.values) or "none"
            accepts = "no gate without attached experts"
            raise wrong_input("gate", f"gates for {names}", accepts, "Give the predictor a stack and attach() that.")
        with self.experts.using(gate):
            return self._forward(x, t, text)

    @contextmanager
    def checkpointed(self) -> Iterator[None]:
        """diffusers' own, which it has in its training mode only; these networks have no dropout."""
        network = self.unet
        before = network.training, network.is_gradient_checkpointing
        network.enable_gradient_checkpointing()
        network.train()
        try:
            yield
        finally:
            network.train(before[0])
            if not before[1]:
                network.disable_gradient_checkpointing()

    def _forward(self, x: Tensor, t: Time, text: Text) -> Prediction:
        told, shown = self._told_to_inpaint(x), self._shown(x)

        def call(x: Tensor, t: Time, texts: list[Text]) -> list[Prediction]:
            seen = x if told is None else torch.cat([x, *told.part(pass_context().batch_slice).channels(x)], 1)
            beside = {} if shown is None else {"reference": pass_context().own_rows(shown)}
            output = self._denoiser.call(seen.to(self.unet.dtype), t, texts[0].repeat(len(x)), **beside)
            return [CONVERSIONS[self.predicts](x, output.to(x.dtype), *self.alpha_sigma(t))]

        return self._in_parts(call, x, t, [text])[0]

    def encode(self, images: Tensor) -> Tensor:
        """The mode of the autoencoder's distribution (nothing random), scaled as the network expects it.

        AutoencoderTiny (TAESD) gives latents without a distribution.
        """
        self.check_images(images)
        latents = batched(self._encode, images, host=self.host, name="images")
        return self._scaled(latents, images)

    def encode_sample(self, images: Tensor, random: torch.Generator) -> Tensor:
        """A draw from the autoencoder's distribution, scaled as the U-Net expects it."""
        self.check_images(images)
        means, deviations = batched(self._moments, images, host=self.host, name="images").chunk(2, 1)
        noise = torch.randn(means.shape, generator=random).to(means)
        return self._scaled(means + deviations * noise, images)

    def _scaled(self, latents: Tensor, images: Tensor) -> Tensor:
        return ((latents - self._shift) * self.vae.config.scaling_factor).to(images.dtype)

    def _encode(self, images: Tensor) -> Tensor:
        output = self.vae.encode((images * 2 - 1).to(self.vae.device, self.vae.dtype))
        return output.latents if hasattr(output, "latents") else output.latent_dist.mode()

    def _moments(self, images: Tensor) -> Tensor:
        """Means and standard deviations of latents, `[B,2C,h,w]`."""
        output = self.vae.encode((images * 2 - 1).to(self.vae.device, self.vae.dtype))
        if not hasattr(output, "latent_dist"):
            accepts = "an autoencoder with a distribution of latents"
            raise wrong_input("vae", type(self.vae).__name__, accepts, "Encode without drawing a sample.")
        return torch.cat([output.latent_dist.mean, output.latent_dist.std], 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Images in 0..1."""
        self.check_latents(latents)
        unscaled = latents / self.vae.config.scaling_factor + self._shift
        images = batched(self._decode, unscaled, host=self.host, name="latents")
        return (images / 2 + 0.5).clamp(0, 1).to(latents.dtype)

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents.to(self.vae.device, self.vae.dtype)).sample

    @property
    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    def encode_text(self, texts: list[str]) -> Text:
        """Prompts as the family encodes them. RegionStyleError for a prompt that has more words than fit."""
        encoders, tokenizers = _several(self.text_encoder), _several(self.tokenizer)
        return self._denoiser.family.encode_text(encoders, tokenizers, texts)

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """All networks on the host's device, and the experts' weights with them for the length of the block."""
        self.host.load(self.unet, self.vae, *_several(self.text_encoder))
        with nullcontext() if self.experts is None else self.host.on_device(self.experts.weights):
            yield


def _several(parts: Any) -> tuple[Any, ...]:
    """One part, or several."""
    return tuple(parts) if isinstance(parts, (tuple, list)) else (parts,)
