"""Every method that draws takes the largest seed that ComfyUI's KSampler takes, and another one draws otherwise."""

import pytest
import torch

from regionstyle.nodes.engine.lora.init import init_lora
from regionstyle.nodes.engine.settings.setting import LARGEST_SEED
from regionstyle.nodes.router.gates.learnt_gate import GateShape, LearntGate
from regionstyle.nodes.router.restyle import _latent_noise
from regionstyle.nodes.router.settings import RestyleSettings
from regionstyle.nodes.router.training.style_pictures import mixed_seed
from regionstyle.nodes.sms.fake import init_fake
from regionstyle.nodes.sms.generator.network import new_generator
from regionstyle.nodes.tinyworld.networks import new_unet

DRAWN = {
    "noise": lambda seed: _latent_noise(torch.zeros(1, 4, 4, 4), RestyleSettings(seed=seed).seed),
    "LoRA": lambda seed: (
        next(iter(init_lora(new_unet(), "x", "", rank=1, layers=(".to_q",), seed=seed).layers.values())).down
    ),
    "fake predictor": lambda seed: next(iter(init_fake(new_unet(), seed).layers.values())).down,
    "generator": lambda seed: next(new_generator("tiny", seed).parameters()),
    "learnt gate": lambda seed: torch.cat(
        [p.flatten() for p in LearntGate(["a", "b"], GateShape(8, top_k=1), seed).parameters()]
    ),
    "crops": lambda seed: torch.rand(4, generator=torch.Generator().manual_seed(mixed_seed(seed, 3))),
}


@pytest.mark.parametrize("name", DRAWN)
def test_the_largest_seed_draws(name):
    draw = DRAWN[name]
    assert LARGEST_SEED == 2**64 - 1
    assert torch.equal(draw(LARGEST_SEED), draw(LARGEST_SEED))
    for other in (LARGEST_SEED - 1, 0):
        assert not torch.equal(draw(LARGEST_SEED), draw(other))
