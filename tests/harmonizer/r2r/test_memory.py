"""What the real networks need at 1024 and 2048 pixels, counted on tensors without numbers."""

import pytest
import torch
from live_memory import LiveBytes
from torch.nn import functional as F

from regionstyle.nodes.harmonizer.r2r.architecture import SD, new_unet
from regionstyle.nodes.harmonizer.r2r.autoencode import (
    VALUES_PER_PIXEL,
    WHOLE_BYTES,
    Autoencoding,
    tile_for,
)
from regionstyle.nodes.harmonizer.r2r.clear_vae import ClearVae

GB = 2**30


@pytest.fixture(autouse=True)
def fused_attention(monkeypatch):
    """As a GPU runs it: on tensors without numbers torch takes the form that makes the whole map of attention."""
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **options: torch.empty_like(q))


def on_meta(build):
    with torch.device("meta"):
        return build().half().eval().requires_grad_(False)


@torch.no_grad()
def peak_of_autoencoder(side, tile):
    vae = on_meta(ClearVae)
    picture = torch.empty(1, 3, side, side, device="meta", dtype=torch.float16)
    latent = torch.empty(1, 4, side // 8, side // 8, device="meta", dtype=torch.float16)
    with LiveBytes() as counted:
        assert Autoencoding(vae, picture, tile).decode(latent).shape == picture.shape
    return counted.peak


def test_counting_sees_what_is_freed():
    x = torch.empty(1000, device="meta")
    with LiveBytes() as counted:
        y = x + 1
        z = y + 1
        del y
        z = z * 2
    assert (counted.peak, counted.now) == (8000, 4000)


@pytest.mark.slow
def test_1024_pixels_whole_fit_8_gb_beside_the_networks():
    """2.4 GB, where the published program holds 2.7 GB of features raw and filtered alone."""
    peak = peak_of_autoencoder(1024, 1024)
    assert peak < VALUES_PER_PIXEL * 1024**2 * 2
    weights = 2 * (859_535_364 + 414_340_496 + 85_554_527)
    assert peak + weights < 6 * GB
    assert tile_for((1024, 1024), 0, torch.float16) == 1024


@pytest.mark.slow
def test_2048_pixels_go_through_in_tiles():
    assert tile_for((2048, 2048), 0, torch.float16) == 512
    assert peak_of_autoencoder(2048, 512) < GB


def test_tiles_are_as_asked_or_by_need():
    assert tile_for((4096, 64), 256, torch.float16) == 256
    assert tile_for((512, 768), 0, torch.float32) == 768
    largest = int((WHOLE_BYTES / VALUES_PER_PIXEL / 2) ** 0.5) // 64 * 64
    assert tile_for((largest, largest), 0, torch.float16) == largest
    assert tile_for((largest + 64, largest + 64), 0, torch.float16) == 512


@pytest.mark.slow
@pytest.mark.parametrize(("side", "limit"), [(1024, 0.8), (2048, 1.6)])
@torch.no_grad()
def test_the_unets_activations_grow_with_the_picture_and_no_faster(side, limit):
    unet = on_meta(lambda: new_unet(SD))
    given = torch.empty(1, 9, side // 8, side // 8, device="meta", dtype=torch.float16)
    text = torch.empty(1, 77, 768, device="meta", dtype=torch.float16)
    with LiveBytes() as counted:
        unet(given, torch.empty((), device="meta"), text)
    assert 0.9 * limit * GB < counted.peak < limit * GB
