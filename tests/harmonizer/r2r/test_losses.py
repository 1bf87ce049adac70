"""R2R's training losses by their definitions."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.harmonizer.r2r.losses import (
    VGG_FILE,
    Features,
    contrastive_loss,
    draw_timesteps,
    foreground_noise_loss,
    vgg_features,
)

IDENTITY = Features(lambda pictures: pictures, "pixels")


def test_the_contrast_is_none_for_the_real_picture_and_most_for_the_composite():
    real, composite = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    assert contrastive_loss(IDENTITY, real, real, composite, mask) == 0
    assert contrastive_loss(IDENTITY, composite, real, composite, mask) == pytest.approx(1)
    assert contrastive_loss(IDENTITY, (real + composite) / 2, real, composite, mask) == pytest.approx(0.5, abs=1e-5)
    elsewhere = torch.where(mask > 0, real, torch.rand(2, 3, 8, 8))
    assert contrastive_loss(IDENTITY, elsewhere, real, composite, mask) == 0, "only the foreground counts"
    empty = contrastive_loss(IDENTITY, composite, real, composite, mask * 0)
    assert empty == 0


def test_the_noise_loss_is_the_definition():
    predicted, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    mask = torch.zeros(3, 1, 8, 8)
    mask[0, :, :4], mask[1, :, 0, :2] = 1, 1  # half, a 32nd (weight 5), none
    error = (predicted - noise) ** 2
    half, small = error[0, :, :4].sum() / 64 * 2, error[1, :, 0, :2].sum() / 64 * 5
    assert foreground_noise_loss(predicted, noise, mask) == pytest.approx(float(half + small) / 12, rel=1e-5)
    assert foreground_noise_loss(predicted, noise, mask * 0) == 0


def test_the_noise_loss_has_finite_gradients_for_an_empty_mask():
    predicted = torch.randn(1, 4, 8, 8, requires_grad=True)
    foreground_noise_loss(predicted, torch.randn(1, 4, 8, 8), torch.zeros(1, 1, 8, 8)).backward()
    assert not predicted.grad.any()


def test_timesteps_lean_to_the_lower_half():
    drawn = draw_timesteps(40000, torch.Generator().manual_seed(0))
    assert 0 <= drawn.min() <= drawn.max() <= 999
    assert float((drawn < 500).double().mean()) == pytest.approx(0.65, abs=0.01)


@pytest.mark.slow
def test_vgg_by_its_file(tmp_path):
    from torchvision.models import vgg16

    torch.manual_seed(0)
    network = vgg16(weights=None)
    state = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("features.")}
    torch.save(state, tmp_path / VGG_FILE)
    features = vgg_features(tmp_path / VGG_FILE)
    pictures = torch.rand(1, 3, 32, 32) * 2 - 1
    kept = pictures.clone()
    maps = features.of(pictures)
    assert maps.shape == (1, 512, 4, 4)
    assert torch.equal(pictures, kept)
    assert torch.allclose(maps, network.features[:23](pictures), atol=1e-5)
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(RegionStyleError, match=VGG_FILE):
        vgg_features(tmp_path / "other.pth")
