"""R2R at small scale: all stages run and give the four rows; what is measured of them."""

import pytest
import torch
from r2r_networks import save_harmony_data

from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.harmonizer.training.pairs import Pairs
from regionstyle.nodes.harmonizer.training.small import (
    VARIANTS,
    SmallSettings,
    high_frequency_psnr,
    train_small,
    variants,
)


@pytest.mark.slow
def test_the_rows_are_four_different_harmonizers(tmp_path):
    root = save_harmony_data(tmp_path)
    said = []
    settings = SmallSettings(autoencoder=2, vae=2, unet=2, controller=2, batch=2)
    host = LocalHost("cpu")
    networks = train_small(root, settings, host, say=said.append)
    assert sum("loss" in line for line in said) == 6
    assert networks.full.controller.modulates
    assert not networks.without_maca.controller.modulates
    composite, mask, _ = Pairs.of(root).all[0].read()
    results = {name: one.harmonize(composite, mask) for name, one in variants(networks, host, steps=2).items()}
    assert tuple(results) == VARIANTS
    plain, full = results["R2R with the plain VAE"], results["R2R"]
    assert not torch.equal(plain, full)
    assert not torch.equal(results["R2R without controller"], full)
    assert torch.equal(full, variants(networks, host, steps=2)["R2R"].harmonize(composite, mask, seed=0))


def test_high_frequencies_count_inside_the_mask_only():
    picture, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    shifted = (picture * 0.5 + 0.2).clamp(0, 1)
    outside = torch.where(mask > 0, picture, torch.rand(1, 3, 32, 32))
    assert high_frequency_psnr(picture, picture, mask) == float("inf")
    assert high_frequency_psnr(picture + 0.1, picture, mask) > 100, "another brightness is no lost detail"
    assert high_frequency_psnr(shifted, picture, mask) < 30
    left = torch.zeros_like(mask)
    left[..., :12] = 1
    assert high_frequency_psnr(outside, picture, left) == float("inf")
