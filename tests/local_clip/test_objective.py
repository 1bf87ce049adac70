"""The whole objective of a region against a transcription of LEAST's published loop, in float64."""

from dataclasses import replace

import pytest
import torch
from local_clip_networks import small_networks
from torch.nn import functional as F

from regionstyle.kernels import sample_patches
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.local_clip.directions import style_direction
from regionstyle.nodes.local_clip.objective import RegionObjective, imagenet_normalised
from regionstyle.nodes.local_clip.presets import IMPROVED, PAPER, REFERENCE
from regionstyle.nodes.local_clip.settings import LocalClipSettings

NETWORKS = small_networks(torch.float64)


def mask_of(x0, y0, x1, y1, side=32):
    mask = torch.zeros(side, side, dtype=torch.float64)
    mask[y0:y1, x0:x1] = 1
    return mask


def normalise(v):
    return v / v.square().sum(-1, keepdim=True).sqrt()


def clip_of(picture):
    resized = F.interpolate(picture, 16, mode="bicubic")
    return normalise(NETWORKS.clip.embed_images(resized))


def transcribed(picture, content, mask, direction, boxes, size, weights, same_place):
    """Losses as the published loop computes them: black outside, whole picture, 100 of 512 pixels."""
    direction_loss = 1 - torch.cosine_similarity(
        normalise(clip_of(picture * mask) - clip_of(content * mask)), direction[None]
    )
    crop, count = round(100 * size / 512), 6
    seen = [
        sample_patches(p, boxes, count, crop, 16, distortion=weights.distortion,
                       generator=torch.Generator().manual_seed(3))[0]
        for p in (picture, content)
    ]  # fmt: skip
    before = normalise(NETWORKS.clip.embed_images(seen[1])) if same_place else clip_of(content)
    moved = normalise(normalise(NETWORKS.clip.embed_images(seen[0])) - before)
    losses = 1 - torch.cosine_similarity(moved, direction[None])
    losses = torch.where(losses < weights.threshold, 0, losses)
    patch = losses.sum() if weights.reduction == "sum" else losses.mean()
    cut = [
        F.interpolate(p[..., 5:23, 4:21], (24, 24), mode="bilinear", align_corners=False) for p in (picture, content)
    ]
    maps = [NETWORKS.content.maps(c, rectified=weights.content_rectified) for c in cut]
    moved = [a - b for a, b in zip(*maps, strict=True)]
    content_loss = sum(m.square().mean() if weights.content_distance == "mean square" else m.square().sum().sqrt()
                       for m in moved)  # fmt: skip
    x = picture * mask
    pairs = [(x[..., 1:], x[..., :-1]), (x[:, :, 1:], x[:, :, :-1]), (x[:, :, 1:, :-1], x[:, :, :-1, 1:]),
             (x[:, :, 1:, 1:], x[:, :, :-1, :-1])]  # fmt: skip
    variation = sum((a - b).square().sum().sqrt() for a, b in pairs)
    return {
        "direction": weights.direction_weight * direction_loss.mean(),
        "patch": weights.patch_weight * patch,
        "content": weights.content_weight * content_loss,
        "variation": weights.variation_weight * variation,
    }


@pytest.mark.parametrize(
    "preset", [PAPER, REFERENCE, replace(REFERENCE, content_scale="once")], ids=["paper", "reference", "one scale"]
)
def test_a_region_costs_what_the_published_formulas_say(preset):
    torch.manual_seed(0)
    source = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    mask, direction = mask_of(4, 5, 21, 23), style_direction(NETWORKS.clip, "mosaic", preset)
    settings = LocalClipSettings(preset=preset, patches=6)
    random = torch.Generator().manual_seed(3)
    objective = RegionObjective(NETWORKS, source, mask, direction, settings, LocalHost("cpu"), random)
    picture = torch.rand(1, 3, 32, 32, dtype=torch.float64).requires_grad_()
    terms = objective.add_gradient(picture)
    content = imagenet_normalised(source) if preset.content_scale == "twice" else source
    same_place = preset.patch_reference == "same place"
    other = picture.detach().requires_grad_()
    expected = transcribed(
        other, content, mask[None, None], direction, torch.tensor([[4, 5, 21, 23]]), 32, preset, same_place
    )
    for name, value in expected.items():
        assert terms.values[name] == pytest.approx(value.item(), rel=1e-9), name
    gradient = torch.autograd.grad(sum(expected.values()), other)[0]
    torch.testing.assert_close(picture.grad, gradient, atol=1e-9 * float(gradient.abs().max()), rtol=1e-8)


@pytest.mark.parametrize("preset", [IMPROVED, REFERENCE, PAPER], ids=lambda p: p.name)
@pytest.mark.parametrize("box", [(0, 0, 8, 8), (24, 24, 32, 32), (13, 9, 21, 17), (0, 31, 32, 32), (5, 5, 6, 6)])
@pytest.mark.parametrize("scales", ["one", "three"])
def test_gradients_are_finite_for_small_regions_and_at_the_frame(preset, box, scales):
    source = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    direction = style_direction(NETWORKS.clip, "mosaic", preset)
    settings = LocalClipSettings(preset=preset, patches=5, scales=scales)
    objective = RegionObjective(
        NETWORKS, source, mask_of(*box), direction, settings, LocalHost("cpu"), torch.Generator().manual_seed(0)
    )
    for picture in (source.clone(), torch.rand_like(source)):  # a picture that has not moved has no direction
        picture.requires_grad_()
        assert objective.add_gradient(picture).total > 0
        assert picture.grad.isfinite().all()
        assert picture.grad.abs().max() > 0


def test_a_ring_keeps_patches_that_show_little_of_it():
    mask = mask_of(2, 2, 30, 30) - mask_of(3, 3, 29, 29)
    source = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    direction = style_direction(NETWORKS.clip, "mosaic", IMPROVED)
    settings = LocalClipSettings(patches=8, patch=256, threshold=0.0)  # no patch is satisfied
    objective = RegionObjective(
        NETWORKS, source, mask, direction, settings, LocalHost("cpu"), torch.Generator().manual_seed(0)
    )
    assert objective.add_gradient(torch.rand_like(source).requires_grad_()).values["patch"] > 0


def test_patches_in_parts_where_memory_is_short():
    """Halved patches give the same gradient."""

    class Short:
        def __init__(self, towers, most):
            self.towers, self.most = towers, most
            self.name, self.size, self.modules = towers.name, towers.size, towers.modules

        def embed_images(self, images):
            if len(images) > self.most:
                raise RuntimeError("out of memory")
            return self.towers.embed_images(images)

    source, found = torch.rand(1, 3, 32, 32, dtype=torch.float64), []
    direction = style_direction(NETWORKS.clip, "mosaic", IMPROVED)
    start = torch.rand_like(source)
    for most in (100, 3):
        networks = replace(NETWORKS, clip=Short(NETWORKS.clip, most))
        settings = LocalClipSettings(patches=8)
        objective = RegionObjective(
            networks, source, mask_of(4, 5, 21, 23), direction, settings, LocalHost("cpu"),
            torch.Generator().manual_seed(0),
        )  # fmt: skip
        picture = start.clone().requires_grad_()
        objective.add_gradient(picture)
        found.append(picture.grad)
    torch.testing.assert_close(*found, atol=1e-9, rtol=1e-9)


def test_half_precision_is_near_and_losses_that_are_no_numbers_are_refused():
    networks, values = small_networks(), []
    source, start = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    direction = style_direction(networks.clip, "mosaic", IMPROVED)
    for half in (False, True):
        settings = LocalClipSettings(patches=8, half=half)
        random = torch.Generator().manual_seed(0)
        arguments = (mask_of(4, 5, 21, 23).float(), direction, settings, LocalHost("cpu"), random)
        objective = RegionObjective(networks, source, *arguments)
        values.append(objective.add_gradient(start.clone().requires_grad_()).total)
    assert values[0] != values[1]
    assert values[1] == pytest.approx(values[0], rel=0.05)
    with pytest.raises(RegionStyleError, match="direction loss of nan"):
        objective.add_gradient(torch.full((1, 3, 32, 32), torch.nan).requires_grad_())
