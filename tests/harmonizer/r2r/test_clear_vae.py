"""The Clear-VAE: the folded form against the definition, the plain autoencoder inside it, and what it refuses."""

import pytest
import torch
from r2r_networks import small_networks
from torch.nn import functional as F

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.harmonizer.r2r.adaptive_filter import AdaptiveFilter
from regionstyle.nodes.harmonizer.r2r.architecture import TINY, new_autoencoder
from regionstyle.nodes.harmonizer.r2r.clear_vae import ClearVae
from regionstyle.nodes.harmonizer.r2r.skip_block import run_block


@pytest.fixture(scope="module")
def vae():
    return small_networks().vae


@pytest.fixture(scope="module")
def picture():
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_folded_form_equals_the_unfolded_one(vae, picture):
    encoding = vae.encode(picture)
    latent = encoding.posterior.mode()
    folded = vae.decode(latent, list(encoding.features), folded=True)
    unfolded = vae.decode(latent, list(encoding.features), folded=False)
    assert (folded - unfolded).abs().max() < 1e-5
    assert (folded - vae.decode(latent)).abs().max() > 0.1, "the features must matter"


def test_a_block_computes_what_the_paper_says(vae):
    """Block 10 of 12, whose feature is repeated, by the nine filters of the definition."""
    block, filter = vae.decoder_blocks()[9], vae.filters[2]
    random = torch.Generator().manual_seed(2)
    x = torch.randn(1, block.conv1.in_channels, 16, 16, generator=random)
    feature = torch.randn(1, block.conv1.in_channels // 2, 16, 16, generator=random)
    a = F.silu(block.norm1(x))
    filtered = filter.unfolded(feature)
    u = block.conv1(a) + block.skip_connect.conv(a + torch.cat([filtered, filtered], 1))
    expected = block.conv_shortcut(x) + block.conv2(F.silu(block.norm2(u)))
    for folded in (True, False):
        assert (run_block(block, x, [feature], filter, folded=folded) - expected).abs().max() < 1e-5


def test_without_features_and_with_w_of_zero_it_is_the_plain_autoencoder(picture):
    torch.manual_seed(0)
    vae, plain = ClearVae(TINY).eval(), new_autoencoder(TINY).eval()
    plain.load_state_dict({name: t for name, t in vae.state_dict().items() if name in plain.state_dict()})
    with torch.no_grad():
        encoding, expected = vae.encode(picture), plain.encode(picture).latent_dist
        assert torch.equal(encoding.posterior.mean, expected.mean)
        decoded = plain.decode(expected.mean).sample
        assert torch.allclose(vae.decode(expected.mean), decoded, atol=1e-6)
        assert torch.allclose(vae.decode(expected.mean, encoding.features), decoded, atol=1e-5)


def test_features_are_those_of_the_table_and_used_up_by_decoding(vae, picture):
    encoding = vae.encode(picture)
    channels = [16] * 4 + [32] * 3 + [64] * 5
    halvings = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    expected = [(2, c, 64 >> h, 96 >> h) for c, h in zip(channels, halvings, strict=True)]
    assert [tuple(feature.shape) for feature in encoding.features] == expected
    vae.decode(encoding.posterior.mean, encoding.features)
    assert encoding.features == []
    assert vae.encode(picture, features=False).features == []


@pytest.mark.parametrize("size", [(60, 64), (56, 64), (64, 32)])
def test_sizes_that_do_not_fit_are_refused(vae, size):
    with pytest.raises(RegionStyleError, match="images: got"):
        vae.encode(torch.zeros(1, 3, *size))


def test_features_of_another_picture_are_refused(vae, picture):
    encoding = vae.encode(picture)
    latent = encoding.posterior.mean
    with pytest.raises(RegionStyleError, match="latent: got"):
        vae.decode(latent[..., :8], encoding.features)
    with pytest.raises(RegionStyleError, match="features: got 3"):
        vae.decode(latent, encoding.features[:3])


def test_a_filter_in_parts_is_the_filter(monkeypatch):
    filter = AdaptiveFilter()
    x, total = torch.randn(2, 5, 9, 11), torch.randn(2, 5, 9, 11)
    with torch.no_grad():
        expected = total + filter.unfolded(x)
        monkeypatch.setattr("regionstyle.nodes.harmonizer.r2r.adaptive_filter.AT_ONCE", {"cpu": 400})
        assert (filter.add_to(total.clone(), x) - expected).abs().max() < 1e-5


def test_gradients_reach_filters_and_w_and_are_those_of_the_folded_form():
    vae = small_networks().vae.double()
    for parameter in vae.parameters():
        parameter.requires_grad_(True)
    picture = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 2 - 1
    gradients = []
    for folded in (True, False):
        vae.zero_grad()
        encoding = vae.encode(picture)
        vae.decode(encoding.posterior.mean, encoding.features, folded=folded).square().mean().backward()
        gradients.append([p.grad.clone() for p in vae.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*gradients, strict=True))
    assert all(filter.alpha.grad.any() and filter.beta.grad.any() for filter in vae.filters)
    assert all(block.skip_connect.conv.weight.grad.any() for block in vae.decoder_blocks())
