"""The network that the tests of experts share, and its output for fixed inputs."""

import pytest
import torch
from adapter_networks import SIZE, new_expert, new_unet


@pytest.fixture(scope="module")
def unet():
    return new_unet()


@pytest.fixture(scope="module")
def expert(unet):
    return new_expert(unet)


@pytest.fixture
def run(unet):
    """`run(network=unet, batch=2)`: the output for fixed inputs, different in each row."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4, 4, *SIZE, generator=generator)
    text = torch.randn(4, 7, 24, generator=generator)

    def call(network=unet, rows=slice(0, 2)):
        with torch.no_grad():
            return network(x[rows], 300, encoder_hidden_states=text[rows]).sample

    return call
