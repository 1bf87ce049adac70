"""Loading the shipped networks: exactly the file's values, nothing random, torch's generator where it was."""

import pytest
import torch

from regionstyle.nodes.tinyworld import bundled
from regionstyle.nodes.tinyworld.classifier import load_classifier, load_photo_classifier
from regionstyle.nodes.tinyworld.networks import TEXT_LENGTH

LOADERS = {
    "unet": lambda: bundled.load_components().unet,
    "vae": bundled.load_vae,
    "text": lambda: bundled.load_text_tower()[0],
    "clip_image": bundled.load_image_tower,
    "classifier": load_classifier,
    "photo_classifier": load_photo_classifier,
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_network_holds_the_values_of_its_file(name):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    loaded = LOADERS[name]()
    assert torch.equal(torch.get_rng_state(), before), "loading moved torch's generator"
    stored = bundled.read(name)
    state = loaded.state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[key], value.to(state[key].dtype)) for key, value in stored.items())
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_what_no_file_holds_is_made():
    tower, _ = bundled.load_text_tower()
    positions = [value for name, value in tower.named_buffers() if name.endswith("position_ids")]
    assert positions
    assert all(torch.equal(value.flatten(), torch.arange(TEXT_LENGTH)) for value in positions)


def test_new_networks_are_random_after_a_load():
    from regionstyle.nodes.tinyworld.networks import new_vae

    bundled.load_vae()
    first, second = (next(new_vae().parameters()) for _ in range(2))
    assert not torch.equal(first, second)
    assert first.requires_grad
