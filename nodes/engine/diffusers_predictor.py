"""The noise predictor over diffusers components: Stable Diffusion class U-Nets that predict noise or velocity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import wrong_input
from .predictor import (
    ZERO_TERMINAL,
    NoisePredictor,
    Prediction,
    Text,
    Time,
    alpha_sigma_of_table,
    from_eps,
    from_v,
    timestep_of,
)

if TYPE_CHECKING:
    from .adapters import ExpertStack
    from .gates import Gates
    from .host import Host

CONVERSIONS = {"epsilon": from_eps, "v_prediction": from_v}
SUPPORTED = "Supported: U-Nets of the Stable Diffusion 1 and 2 class that predict epsilon or v_prediction."


class DiffusersPredictor(NoisePredictor):
    """UNet2DConditionModel + AutoencoderKL or AutoencoderTiny + CLIPTextModel (or with projection) + CLIPTokenizer.

    The network is asked at the nearest whole timestep, the only ones it was trained on and what ComfyUI does;
    alpha and sigma stay continuous. Networks run in their own dtype, results come in the dtype of the input.
    """

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
        """scheduler gives alphas_cumprod and prediction_type. RegionStyleError for networks of another family."""
        _check_family(unet, scheduler)
        self.unet, self.vae, self.text_encoder, self.tokenizer = unet, vae, text_encoder, tokenizer
        self.host, self.network, self.experts = host, unet, experts
        self._convert = CONVERSIONS[scheduler.config.prediction_type]
        self._log_ratios = _log_ratios(scheduler.alphas_cumprod)
        self.latent_channels = unet.config.in_channels
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        sample = unet.config.sample_size
        self.native_size = self.factor * (max(sample) if isinstance(sample, (list, tuple)) else int(sample))

    def alpha_sigma(self, t: Time) -> tuple[Tensor, Tensor]:
        """From the scheduler's table, by log(sigma / alpha); see `alpha_sigma_of_table`."""
        return alpha_sigma_of_table(self._log_ratios, t)

    def predict(self, x: Tensor, t: Time, text: Text, gate: Gates | None = None) -> Prediction:
        """One forward of the U-Net. With a gate, the experts have it for this call only."""
        self.check_latents(x)
        if gate is None:
            return self._forward(x, t, text)
        if self.experts is None:
            names = ", ".join(gate.values) or "none"
            raise wrong_input("gate", f"gates for {names}", "no gate", "Attach experts to the predictor first.")
        with self.experts.using(gate):
            return self._forward(x, t, text)

    def _forward(self, x: Tensor, t: Time, text: Text) -> Prediction:
        steps = timestep_of(t).round().to(x.device, torch.long).expand(len(x))
        states = text.repeat(len(x)).states.to(x.device, self.unet.dtype)
        output = self.unet(x.to(self.unet.dtype), steps, encoder_hidden_states=states).sample
        return self._convert(x, output.to(x.dtype), *self.alpha_sigma(t))

    def encode(self, images: Tensor) -> Tensor:
        """The mode of the autoencoder's distribution (nothing random), scaled as the U-Net expects it.

        AutoencoderTiny (TAESD) gives latents without a distribution.
        """
        self.check_images(images)
        output = self.vae.encode((images * 2 - 1).to(self.vae.device, self.vae.dtype))
        latents = output.latents if hasattr(output, "latents") else output.latent_dist.mode()
        return ((latents - self._shift) * self.vae.config.scaling_factor).to(images.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Images in 0..1."""
        self.check_latents(latents)
        unscaled = latents / self.vae.config.scaling_factor + self._shift
        images = self.vae.decode(unscaled.to(self.vae.device, self.vae.dtype)).sample
        return (images / 2 + 0.5).clamp(0, 1).to(latents.dtype)

    @property
    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    def encode_text(self, texts: list[str]) -> Text:
        """The last hidden states over 77 positions. RegionStyleError for a prompt that has more words than fit."""
        lengths = [len(ids) for ids in self.tokenizer(texts, verbose=False).input_ids]
        limit = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        self._check_lengths(texts, lengths, limit)
        padded = self.tokenizer(texts, padding="max_length", max_length=limit, return_tensors="pt").input_ids
        output = self.text_encoder(padded.to(self.text_encoder.device))
        pooled = getattr(output, "text_embeds", None)
        ids = padded.tolist()
        pieces = [self.tokenizer.convert_ids_to_tokens(row) for row in ids]
        position, length = torch.arange(limit), torch.tensor(lengths)[:, None]
        valid = (position > 0) & (position < length - 1)
        pooled = output.pooler_output if pooled is None else pooled
        return Text(output.last_hidden_state, pooled, ids, pieces, valid.to(padded.device))

    def _check_lengths(self, texts: list[str], lengths: list[int], limit: int) -> None:
        for text, length in zip(texts, lengths, strict=True):
            if length > limit:
                shown = text if len(text) <= 60 else text[:57] + "..."
                got, accepts = f"{length - 2} tokens ({shown!r})", f"at most {limit - 2}"
                raise wrong_input("prompt", got, accepts, "Shorten it; this text encoder reads no more.")

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """All three networks on the host's device."""
        self.host.load(self.unet, self.vae, self.text_encoder)
        yield


def _check_family(unet: Any, scheduler: Any) -> None:
    """Refuse what would need inputs that this predictor does not give."""
    kind = scheduler.config.prediction_type
    if kind not in CONVERSIONS:
        raise wrong_input("scheduler", f"prediction_type {kind!r}", " or ".join(map(repr, CONVERSIONS)), SUPPORTED)
    config = getattr(unet, "config", None)
    if config is None or not hasattr(config, "cross_attention_dim"):
        raise wrong_input("unet", type(unet).__name__, "a UNet2DConditionModel", SUPPORTED)
    extra = [name for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type") if config.get(name)]
    if extra or config.in_channels != config.out_channels:
        what = ", ".join(extra) or f"{config.in_channels} input channels for {config.out_channels} output channels"
        raise wrong_input("unet", f"a network with {what}", "text as the only condition", SUPPORTED)


def _log_ratios(alphas_cumprod: Tensor) -> Tensor:
    """log(sigma / alpha) `[1000]` in float64; a schedule that ends in pure noise ends at ComfyUI's value instead."""
    squared = alphas_cumprod.double().clamp_min(ZERO_TERMINAL)
    return ((1 - squared).log() - squared.log()) / 2
