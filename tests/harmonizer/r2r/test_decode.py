"""The Clear-VAE by itself: latents of any origin, decoded with a picture's detail."""

import pytest
import torch
from r2r_networks import small_networks

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.harmonizer.r2r.decode import decode_with_detail

HOST = LocalHost("cpu")


@pytest.fixture(scope="module")
def vae():
    return small_networks().vae


@torch.no_grad()
def test_it_is_the_decoder_with_the_pictures_features(vae):
    picture = torch.rand(2, 3, 64, 72)
    encoding = vae.encode(picture * 2 - 1)
    latent = encoding.posterior.mode()
    expected = (vae.decode(latent, encoding.features) / 2 + 0.5).clamp(0, 1)
    assert (decode_with_detail(vae, latent, picture, HOST) - expected).abs().max() < 1e-4


def test_one_picture_serves_all_latents(vae):
    latents, picture = torch.randn(2, 4, 8, 8), torch.rand(1, 3, 64, 64)
    both = decode_with_detail(vae, latents, picture, HOST)
    assert both.shape == (2, 3, 64, 64)
    assert torch.equal(both[1:], decode_with_detail(vae, latents[1:], picture, HOST))


def test_pictures_lose_the_border_that_their_encoding_lost(vae):
    latent, picture = torch.randn(1, 4, 8, 9), torch.rand(1, 3, 67, 77)
    cut = picture[..., 1:65, 2:74]
    assert torch.equal(decode_with_detail(vae, latent, picture, HOST), decode_with_detail(vae, latent, cut, HOST))


@pytest.mark.parametrize(
    ("latent", "picture", "part"),
    [
        ((1, 16, 8, 8), (1, 3, 64, 64), "latent: got"),
        ((1, 4, 8, 8), (1, 3, 72, 64), "image: got 64 x 72"),
        ((1, 4, 8, 8), (1, 3, 63, 64), "image: got 64 x 63"),
        ((3, 4, 8, 8), (2, 3, 64, 64), "image: got 2 pictures"),
        ((1, 4, 4, 4), (1, 3, 32, 32), "64 pixels or more"),
    ],
)
def test_what_does_not_fit_is_refused(vae, latent, picture, part):
    with pytest.raises(RegionStyleError, match=part):
        decode_with_detail(vae, torch.zeros(latent), torch.zeros(picture), HOST)
