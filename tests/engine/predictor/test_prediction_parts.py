"""Predictions where memory is short: the batch is halved, and everything is as if it had run in one piece."""

import pytest
import torch
from family_models import SHAPES, diffusers_network, diffusers_scheduler, family_inputs, family_noise
from torch import nn

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor

OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
BATCH = 5


class Vae(nn.Module):
    config = type("Config", (), {"block_out_channels": (1,) * 4})


class Room:
    """A network on a device with room for `images` images."""

    def __init__(self, network):
        self.images, self.ran = None, []
        self.handle = network.register_forward_pre_hook(self.check, with_kwargs=True)

    def check(self, network, args, kwargs):
        count = len(args[0] if args else kwargs["hidden_states"])
        if self.images is not None and count > self.images:
            raise OUT_OF_MEMORY("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.ran.append(count)


def expert_of(network, name, seed):
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=generator) * 0.3  # noqa: E731
    layers = {
        path: LoraLayer(random(2, module.in_features), random(module.out_features, 2))
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear) and any(part in path for part in (".to_k", ".to_q", "add_k_proj", "ff.net.2"))
    }
    return Expert(name, layers)


@pytest.fixture(scope="module", params=["sd", "flux"])
def setting(request):
    """A predictor with two attached experts, its room, and inputs that differ in every row."""
    family = request.param
    network = diffusers_network(family)
    stack = ExpertStack(network, [expert_of(network, name, seed) for seed, name in enumerate(("oil", "ink"))])
    predictor = DiffusersPredictor(network, Vae(), None, None, diffusers_scheduler(family), LocalHost("cpu"), stack)
    x, states, pooled = family_inputs(family, BATCH, (8, 6))
    length = SHAPES[family][0]
    text = Text(states, pooled, [[0] * length] * BATCH, [[""] * length] * BATCH, torch.ones(BATCH, length).bool())
    with stack:
        yield predictor, Room(network), x, text


def gates():
    words = torch.zeros(BATCH, 4, dtype=torch.bool)
    words[[0, 2, 4], 1] = True
    masks = family_noise(BATCH, 8, 6, seed=7).sigmoid()
    return Gates({"oil": RegionGate(masks, 0.8, words), "ink": torch.linspace(0, 1, BATCH)})


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize(("room", "ran"), [(4, [2, 2, 1]), (1, [1] * 5)])
def test_a_prediction_in_parts_equals_the_whole(setting, room, ran):
    predictor, space, x, text = setting
    times, groups = torch.linspace(0.2, 0.8, BATCH), torch.zeros(BATCH, 2, text.states.shape[1], dtype=torch.bool)
    groups[torch.arange(BATCH), 0, torch.arange(BATCH) + 1] = groups[:, 1, 9] = True
    valid = torch.ones(BATCH, text.states.shape[1], dtype=torch.bool)
    valid[torch.arange(BATCH), 15] = False
    found = []
    with torch.no_grad(), AttentionTap(predictor, groups, valid=valid) as tap:
        for space.images in (None, room):
            space.ran.clear()
            made = predictor.predict(x, times, text, gates())
            found.append([made.eps, made.denoised, *tap.maps.values()])
    assert space.ran == ran
    assert len(found[0]) > 3
    for whole, parts in zip(*found, strict=True):
        close(parts, whole)
    space.images = None


def test_positive_and_negative_prompts_stay_with_their_rows(setting):
    """Words of an expert count in the positive prompt only, also where a part holds rows of both."""
    predictor, space, x, text = setting
    negative = Text(text.states.flip(0), text.pooled.flip(0), text.ids, text.pieces, text.valid)
    found = []
    with torch.no_grad():
        for space.images in (None, 3):
            space.ran.clear()
            found.append(predictor.predict_pair(x, 0.4, text, negative, gates()))
    assert space.ran == [2] * 5
    for whole, parts in zip(*found, strict=True):
        close(parts.eps, whole.eps)
    space.images = None


def test_no_room_for_one_image_is_one_clear_error(setting):
    predictor, space, x, text = setting
    space.images = 0
    try:
        with pytest.raises(RegionStyleError, match="latents: got no memory even for a size of 1"):
            predictor.predict(x, 0.4, text)
    finally:
        space.images = None


def test_gradients_pass_through_the_parts(setting):
    predictor, space, x, text = setting
    found = []
    for space.images in (None, 2):
        latent = x.clone().requires_grad_()
        predictor.predict(latent, 0.4, text, gates()).eps.square().sum().backward()
        found.append(latent.grad)
    close(*reversed(found))
    space.images = None
