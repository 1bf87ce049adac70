"""Grids of validation pictures: composites, what the networks make of them now, and the real pictures below."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...engine.host.base import Host
from ..paste import paste_back
from ..r2r.pipeline import R2RHarmonizer
from ..r2r.settings import R2RSettings
from .examples import Example, joined, whole_example
from .pairs import Pairs
from .stages import TrainingStage, VaeStage

COUNT = 4  # pictures, at most


def validation_grid(stage: TrainingStage, pairs: Pairs, side: int, host: Host) -> Tensor:
    """`[3,3 side,n side]` in 0..1: a column per picture."""
    chosen = pairs.all[:COUNT]
    examples = joined([whole_example(pair, side, hint=False) for pair in chosen])
    before = [(module, module.training) for module in _modules(stage)]
    try:
        results = _results(stage, examples, host)
    finally:
        for module, training in before:
            module.training = training
    rows = [examples.composite / 2 + 0.5, results, examples.real / 2 + 0.5]
    return torch.cat([torch.cat([*row.clamp(0, 1)], -1) for row in rows], -2)


def _modules(stage: TrainingStage) -> list[nn.Module]:
    networks = stage.networks
    return [m for n in (networks.vae, networks.unet, networks.controller) if n is not None for m in n.modules()]


@torch.no_grad()
def _results(stage: TrainingStage, examples: Example, host: Host) -> Tensor:
    """Of the Clear-VAE's stage reconstructions, of the others harmonised pictures pasted back, `[n,3,s,s]` in 0..1."""
    composite = examples.composite / 2 + 0.5
    if isinstance(stage, VaeStage):
        vae = stage.networks.vae.eval()
        real, comp = examples.real.to(host.device), examples.composite.to(host.device)
        latent = vae.encode(real, features=False).posterior.mode()
        return (vae.decode(latent, vae.encode(comp).features if stage.clear else None) / 2 + 0.5).cpu()
    gradients = [parameter.requires_grad for module in _modules(stage) for parameter in module.parameters(False)]
    try:
        settings = R2RSettings(resolution=0, controller=stage.name == "controller")
        harmonizer = R2RHarmonizer(stage.networks, host, settings)
        seen = examples.mask.mean((1, 2, 3)) < 1
        results = composite.clone()
        results[seen] = harmonizer.harmonize(composite[seen].clamp(0, 1), examples.mask[seen])
    finally:
        parameters = [p for module in _modules(stage) for p in module.parameters(False)]
        for parameter, needs in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(needs)
    return paste_back(composite.clamp(0, 1), results, examples.mask)
