"""The objective on velocity and rectified-flow networks against closed forms, from the raw outputs of the network."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from family_models import diffusers_network, family_inputs

from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor
from regionstyle.nodes.sms.fake import NAME, init_fake
from regionstyle.nodes.sms.presets import PAPER, REFERENCE
from regionstyle.nodes.sms.score import Prompts, StyleScore
from regionstyle.nodes.sms.settings import SmsSettings

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ABAR = (1 - BETAS).cumprod(0)
GUIDANCE, TIMES = 3.0, torch.tensor([101.0, 301.0], dtype=torch.float64)  # each picture its own


class Vae(torch.nn.Module):
    class config:
        block_out_channels = (1, 2, 3, 4)


def with_ups(expert, name, seed):
    """An expert whose up matrices are not zero."""
    random = torch.Generator().manual_seed(seed)
    layers = {
        path: LoraLayer(layer.down.double(), torch.randn(layer.up.shape, generator=random).double() / 10, layer.scale)
        for path, layer in expert.layers.items()
    }
    return Expert(name, layers)


def set_up(family):
    network = diffusers_network("sd" if family == "v" else family).double()
    scheduler = FlowMatchEulerDiscreteScheduler()
    if family == "v":
        options = {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}
        scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, **options)
    experts = [with_ups(init_fake(network, 1), "style", 2), with_ups(init_fake(network, 3), NAME, 4)]
    stack = ExpertStack(network, experts)
    stack.weights.double()
    return DiffusersPredictor(network, Vae(), None, None, scheduler, LocalHost("cpu"), stack)


def texts_of(family):
    _, states, pooled = family_inputs("sd" if family == "v" else family, batch=3, size=(6, 10))

    def one(row):
        known = [[0] * states.shape[1]], [[""] * states.shape[1]]
        part = slice(row, row + 1)
        return Text(states[part].double(), pooled[part].double(), *known, torch.ones(1, states.shape[1]).bool())

    return [one(row) for row in range(3)]


def noise_seen(predictor, family, z, eps, abar, t, text, gates):
    """What one row's network sees as noise, from its velocity by the closed form of its kind."""
    network = predictor.network
    with predictor.experts.using(Gates(gates)):
        if family == "v":
            x = abar**0.5 * z + (1 - abar) ** 0.5 * eps
            v = network(x, torch.tensor([int(t)]), encoder_hidden_states=text.states).sample
            return abar**0.5 * v + (1 - abar) ** 0.5 * x
        ratio = math.sqrt((1 - abar) / abar)
        s = ratio / (1 + ratio)  # the same signal-to-noise ratio
        x = (1 - s) * z + s * eps
        told = {"encoder_hidden_states": text.states, "pooled_projections": text.pooled}
        u = network(hidden_states=x, timestep=torch.tensor([s * 1000]).double(), **told).sample
        return x + (1 - s) * u


@pytest.mark.parametrize("chosen", [REFERENCE, PAPER], ids=lambda preset: preset.name)
@pytest.mark.parametrize("family", ["v", "sd3"])
def test_the_style_gradient_of_other_networks(family, chosen):
    predictor, texts = set_up(family), texts_of(family)
    latent = family_inputs("sd" if family == "v" else family, size=(6, 10))[0].double()
    source, noise = latent.flip(0) * 0.7, torch.randn(latent.shape, generator=torch.Generator().manual_seed(7)).double()
    settings = SmsSettings(chosen, guidance=GUIDANCE, balance=0.0)
    score = StyleScore(predictor, Prompts(*texts), {"style": 0.5}, settings)
    moving = latent.clone().requires_grad_()
    with predictor.experts:
        losses = score.losses(moving, source, TIMES, noise)
        (got,) = torch.autograd.grad(losses.style.sum(), moving)
        with torch.no_grad():
            for row, t in enumerate(TIMES.tolist()):
                abar, at = float(ABAR[int(t)]), slice(row, row + 1)

                def seen(z, text, gates, abar=abar, at=at, t=t):
                    return noise_seen(predictor, family, z[at], noise[at], abar, t, text, gates)

                style, fake = (
                    seen(latent, texts[2], gates) + GUIDANCE * (seen(latent, texts[0], gates)
                                                                - seen(latent, texts[2], gates))
                    for gates in ({"style": 0.5}, {NAME: 1.0})
                )  # fmt: skip
                change = seen(source, texts[1], {}) - seen(source, texts[2], {})
                size = change.mean(1).abs() if chosen is REFERENCE else change.abs().mean(1)
                relevance = (size - size.min()) / (size.max() - size.min())
                weight = 1 - abar
                if chosen is REFERENCE:
                    weight = (1 - float(ABAR[int(t) - 2])) / (1 - abar) * float(BETAS[int(t)])
                wanted = weight * relevance * (style - fake) / latent[0].numel()
                assert float(wanted.abs().max()) > 0
                torch.testing.assert_close(got[at], wanted, rtol=1e-4, atol=float(wanted.abs().max()) * 1e-4)
