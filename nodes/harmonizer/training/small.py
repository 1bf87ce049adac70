"""R2R at a scale that trains on a CPU in minutes: its own classes with few channels, and what its parts are worth.

    networks = train_small(DATA, SmallSettings(), host)        # all stages, from nothing
    for name, harmonizer in variants(networks, host).items(): ...

The published order: first an autoencoder (the place of Stable Diffusion's), then the Clear-VAE, the U-Net, the
controller, and a second controller without mask-aware attention. What such networks show is the order of the variants
on small pictures, not the published quality.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...engine.host.base import Host
from ...engine.settings.checks import check_settings
from ...engine.settings.setting import seed_setting, setting
from ..r2r.architecture import TINY, Architecture
from ..r2r.controller import HarmonyController, copied_from_unet
from ..r2r.losses import Features
from ..r2r.networks import R2RNetworks, new_networks
from ..r2r.pipeline import R2RHarmonizer
from ..r2r.settings import R2RSettings
from .examples import Example
from .own_features import encoder_features, unit_latents
from .pairs import Pairs
from .run import StageTrainer, train_stage
from .settings import R2RTrainSettings
from .stages import ControllerStage, TrainingStage, UnetStage, VaeStage

KL = 1e-6  # weight of the autoencoder's divergence term, as Stable Diffusion's
VARIANTS = ("R2R without controller", "R2R without MACA", "R2R with the plain VAE", "R2R")
BLUR = 5  # pixels: what a Gaussian of a fifth of it takes away counts as high frequency


@dataclass(frozen=True)
class SmallSettings:
    """Steps of each stage, the side of the crops and how fast they learn."""

    autoencoder: int = setting(600, low=1, high=10**6, help="Steps of the plain autoencoder.")
    vae: int = setting(300, low=1, high=10**6, help="Steps of the Clear-VAE, and of the plain decoder beside it.")
    unet: int = setting(800, low=1, high=10**6, help="Steps of the U-Net.")
    controller: int = setting(400, low=1, high=10**6, help="Steps of each controller.")
    side: int = setting(64, low=64, high=512, step=64, unit="pixels", help="Side of the crops.")
    batch: int = setting(8, low=1, high=256, help="Pictures a step.")
    rate: float = setting(1e-3, low=1e-6, high=1, round=False, help="Learning rate.")
    seed: int = seed_setting("Seed of everything.")

    def __post_init__(self) -> None:
        check_settings(self)

    def stage(self, steps: int) -> R2RTrainSettings:
        """As settings of one stage; no grids."""
        return R2RTrainSettings(
            steps, 1, self.batch, 1, self.rate, self.side, self.seed, preview_every=10**7
        )  # fmt: skip


@dataclass(eq=False)
class SmallNetworks:
    """full: R2R; plain: the same with the plain decoder, trained as long; without_maca: a controller of its own."""

    full: R2RNetworks
    plain: R2RNetworks
    without_maca: R2RNetworks


class AutoencoderStage:
    """The plain autoencoder, encoder and decoder, on real pictures: L1 and a little divergence from a normal
    distribution. It stands for Stable Diffusion's, which R2R begins with."""

    name, hint = "vae", False

    def __init__(self, networks: R2RNetworks) -> None:
        self.networks = networks
        networks.frozen()
        vae = networks.vae
        for module in (vae.encoder, vae.decoder, vae.quant_conv, vae.post_quant_conv):
            module.requires_grad_(True)
        for block in vae.decoder_blocks():
            block.skip_connect.requires_grad_(False)

    @property
    def trained(self) -> nn.Module:
        return self.networks.vae

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.networks.vae.parameters() if parameter.requires_grad]

    def loss(self, batch: Example, random: torch.Generator) -> Tensor:
        vae = self.networks.vae
        posterior = vae.encode(batch.real, features=False).posterior
        result = vae.decode(posterior.sample(random))
        return (result - batch.real).abs().mean() + KL * posterior.kl().mean()


def train_small(
    folder: Path, settings: SmallSettings, host: Host, *, features: Features | None = None,
    architecture: Architecture = TINY, split: str = "train", say: Callable[[str], None] = lambda text: None,
) -> SmallNetworks:  # fmt: skip
    """All stages on a data set's split, from random weights; features: of the contrastive loss (default: the small
    autoencoder's own encoder). say(text): which stage begins, and the losses it ended with."""
    pairs, networks = Pairs.of(folder, split), new_networks(architecture, settings.seed)

    def train(stage: TrainingStage, steps: int, name: str) -> None:
        say(f"{name}: {steps} steps")
        losses = train_stage(StageTrainer(stage, pairs, settings.stage(steps), host))
        say(f"{name}: loss {sum(losses[-20:]) / len(losses[-20:]):.4f}")

    train(AutoencoderStage(networks), settings.autoencoder, "autoencoder")
    unit_latents(networks.vae, pairs, settings.side, host)
    features = features or encoder_features(networks.vae)
    plain = replace(networks, vae=copy.deepcopy(networks.vae))
    train(VaeStage(networks, features), settings.vae, "Clear-VAE")
    train(VaeStage(plain, features, clear=False), settings.vae, "plain decoder")
    train(UnetStage(networks), settings.unet, "U-Net")
    without = HarmonyController(architecture)
    networks.controller = copied_from_unet(networks.controller or without, networks.unet)
    without.load_state_dict(networks.controller.state_dict())
    without.modulates = False
    train(ControllerStage(networks), settings.controller, "controller")
    without_maca = replace(networks, controller=without)
    train(ControllerStage(without_maca), settings.controller, "controller without MACA")
    plain.controller = networks.controller
    return SmallNetworks(networks.frozen(), plain.frozen(), without_maca.frozen())


def variants(networks: SmallNetworks, host: Host, steps: int = 10, seed_free: bool = True) -> dict[str, R2RHarmonizer]:
    """The four rows of the ablation by name, each a `Harmonizer` at the pictures' own size.

    seed_free: deterministic Euler, so that one run says what ten seeds would.
    """
    settings = R2RSettings(steps=steps, sampler="euler" if seed_free else "euler ancestral", resolution=0)
    return {
        VARIANTS[0]: R2RHarmonizer(networks.full, host, replace(settings, controller=False)),
        VARIANTS[1]: R2RHarmonizer(networks.without_maca, host, settings),
        VARIANTS[2]: R2RHarmonizer(networks.plain, host, replace(settings, clear=False)),
        VARIANTS[3]: R2RHarmonizer(networks.full, host, settings),
    }


def high_frequency_psnr(result: Tensor, truth: Tensor, mask: Tensor) -> float:
    """PSNR inside a mask of what a blur takes away: how much of the fine detail is kept. Pictures `[B,3,H,W]` in 0..1,
    mask `[B,1,H,W]`, 0 or 1; inf where they are equal."""
    error = ((_detail(result) - _detail(truth)) ** 2 * mask).sum() / (3 * mask.sum()).clamp_min(1)
    return float(10 * torch.log10(1 / error))


def _detail(pictures: Tensor) -> Tensor:
    radius = BLUR // 2
    padded = F.pad(pictures.float(), [radius] * 4, mode="reflect")
    return pictures.float() - F.avg_pool2d(padded, BLUR, 1)
