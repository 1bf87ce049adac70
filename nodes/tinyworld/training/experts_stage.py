"""Stage `experts`: one LoRA per style on the frozen denoiser, trained with PEFT on pairs of picture and truth.

Restyling starts from the picture's own latent at a partial noise level, so the expert is trained on exactly those
inputs. With source latent z, styled latent s, start level (alpha_0, sigma_0) and noise eps, the deterministic
sampler that always predicts s passes at every later level (alpha, sigma) through

    x = alpha s + sigma eps',   eps' = eps + (alpha_0 / sigma_0) (z - s)

and the expert learns to predict eps' there. One sample in five is an ordinary noised styled latent, so that the
expert also works as a plain style LoRA when a picture is generated from nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..networks import scheduler
from .unet_stage import TextBatch, draw_caption

RANK = 8
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "conv1", "conv2", "proj_in", "proj_out"]
START_LEVELS = (150, 600)  # timesteps that restyling starts from
# A short training understates some styles; their experts are shipped at a multiple, chosen on scenes that neither
# training nor evaluation uses (held-out numbers 200 to 320).
SHIPPED_AT = {"neon": 1.25, "pencil sketch": 1.4}


def add_lora(unet: Any, seed: int) -> Any:
    """Freeze the denoiser and add one trainable LoRA of rank 8 (alpha 8) through PEFT; changes `unet` in place."""
    from peft import LoraConfig

    torch.manual_seed(seed)
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS, init_lora_weights=True))
    return unet


@torch.no_grad()
def start_from(unet: Any, path: Path) -> None:
    """Put a saved expert's tensors into the adapter of `unet`; it must have the same layers and rank."""
    from ...engine.lora.load import load_expert

    for name, layer in load_expert(path).layers.items():
        module = unet.get_submodule(name)
        module.lora_A["default"].weight.copy_(layer.down)
        module.lora_B["default"].weight.copy_(layer.up * layer.scale)


def lora_state(unet: nn.Module, multiple: float = 1.0) -> dict[str, Tensor]:
    """The adapter's weights under PEFT's own keys, ready for `engine.adapter_files.load_expert`.

    multiple: factor of the whole adapter.
    """
    from peft import get_peft_model_state_dict

    weights = {key: value.detach() for key, value in get_peft_model_state_dict(unet).items()}
    scaled = {key: value * multiple if ".lora_B." in key else value for key, value in weights.items()}
    return {key: value.half().contiguous() for key, value in scaled.items()}


class LoraParameters(nn.Module):
    """The trainable part of a network with adapters, as the small module that `Trainer` keeps and averages."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.weights = nn.ParameterList([p for p in unet.parameters() if p.requires_grad])


class ExpertLoss:
    """Draws pairs and scores the denoiser with its expert; `self(step)` is what `Trainer` calls.

    source, styled: latents `[N,4,16,16]` of the same pictures; facts: their words; style: its name.
    """

    def __init__(
        self,
        unet: nn.Module,
        text_tower: Any,
        source: np.ndarray,
        styled: np.ndarray,
        facts: list[dict],
        style: str,
        size: int = 24,
        seed: int = 3,
    ) -> None:
        self.unet, self.text, self.style = unet, TextBatch(text_tower), style
        self.source, self.styled, self.facts = source, styled, facts
        self.size, self.seed = size, seed
        self.device = next(unet.parameters()).device
        self.alphas = scheduler().alphas_cumprod.to(self.device)

    def _captions(self, index: np.ndarray, random: np.random.Generator) -> list[str]:
        plain = [draw_caption(self.facts[i], random).text for i in index]
        return [f"{p if random.random() < 0.7 else 'a picture'} in {self.style} style" for p in plain]

    def _levels(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Start level, current level (a third of them at the start) and which samples are ordinary."""
        start = random.integers(*START_LEVELS, self.size)
        now = np.where(random.random(self.size) < 0.33, start, (start * random.random(self.size)).astype(int))
        ordinary = random.random(self.size) < 0.2
        return start, np.where(ordinary, random.integers(0, 1000, self.size), now), ordinary

    def _rates(self, t: np.ndarray) -> tuple[Tensor, Tensor]:
        alpha_bar = self.alphas[torch.from_numpy(t).to(self.device)][:, None, None, None]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        random = np.random.default_rng([self.seed, step])
        index = random.integers(0, len(self.source), self.size)
        _, states = self.text.states(self._captions(index, random))
        start, now, ordinary = self._levels(random)
        z, s = (torch.from_numpy(x[index]).float().to(self.device) for x in (self.source, self.styled))
        z = torch.where(torch.from_numpy(ordinary).to(self.device)[:, None, None, None], s, z)
        (alpha_0, sigma_0), (alpha, sigma) = self._rates(start), self._rates(now)
        noise = torch.randn_like(s) + alpha_0 / sigma_0 * (z - s)
        predicted = self.unet(alpha * s + sigma * noise, torch.from_numpy(now).to(self.device), states).sample
        # In units of the styled latent itself, bounded where the noise is strong.
        weight = (sigma / alpha).clamp(max=1.5) ** 2 + 0.05
        error = ((predicted - noise).square() * weight).mean()
        return error, {}


def save_expert_file(state: dict[str, Tensor], style: str, path: Path) -> None:
    """Write the expert in the layout ComfyUI's LoRA loader reads, with its style words in the header."""
    from dataclasses import replace

    from ...engine.lora.load import load_expert
    from ...engine.lora.save import save_expert

    path.parent.mkdir(parents=True, exist_ok=True)
    save_expert(replace(load_expert(state, name=style), style=style), path, layout="kohya")
    path.chmod(0o644)
