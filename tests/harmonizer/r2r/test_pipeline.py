"""R2R's sampler: against a plain transcription of the published steps, and everything a user may get wrong."""

import math

import pytest
import torch
from r2r_networks import small_networks
from torch.nn import functional as F

from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.harmonizer.base import Harmonizer
from regionstyle.nodes.harmonizer.r2r import pipeline
from regionstyle.nodes.harmonizer.r2r.hint import hint_of, latent_mask, resized_mask
from regionstyle.nodes.harmonizer.r2r.pipeline import R2RHarmonizer, with_fine_part, working_size
from regionstyle.nodes.harmonizer.r2r.settings import R2RSettings

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@pytest.fixture(scope="module")
def networks():
    return small_networks()


@pytest.fixture(scope="module")
def scene():
    composite = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(5))
    composite = F.interpolate(composite, (64, 128), mode="bicubic").clamp(0, 1)
    mask = torch.zeros(1, 1, 64, 128)
    mask[..., 16:48, 32:80] = 1
    return composite, mask


def harmonizer(networks, **settings):
    return R2RHarmonizer(networks, LocalHost("cpu"), R2RSettings(**{"steps": 2, "resolution": 0, **settings}))


@torch.no_grad()
def published(networks, composite, mask, seed, steps):
    """The published inference, step by step, with diffusers' scheduler; composite and mask at their working size."""
    from diffusers import EulerAncestralDiscreteScheduler

    scheduler, random = EulerAncestralDiscreteScheduler(**BETAS), torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(steps)
    size = tuple(side // 8 for side in composite.shape[-2:])
    x = torch.randn(1, 4, *size, generator=random) * scheduler.init_noise_sigma
    condition = networks.vae.encode(composite * 2 - 1).posterior.sample(random) * 0.18215
    small, hint = resized_mask(mask, size), hint_of(composite, mask, tuple(composite.shape[-2:]))
    for timestep in scheduler.timesteps:
        control = networks.controller(networks.controller.embed_hint(hint), timestep, networks.empty_prompt, small)
        given = torch.cat([scheduler.scale_model_input(x, timestep), small, condition], 1)
        eps = networks.unet(
            given, timestep, networks.empty_prompt,
            down_block_additional_residuals=control.down, mid_block_additional_residual=control.mid,
        ).sample  # fmt: skip
        x = scheduler.step(eps, timestep, x, generator=random).prev_sample
    features = networks.vae.encode(composite * 2 - 1).features
    return (networks.vae.decode(x / 0.18215, features, folded=False) / 2 + 0.5).clamp(0, 1)


def test_it_is_the_published_inference(networks, scene):
    ours = harmonizer(networks, steps=3).harmonize(*scene, seed=7)
    assert (ours - published(networks, *scene, 7, 3)).abs().max() < 1e-4


def test_it_is_a_harmonizer(networks):
    assert isinstance(harmonizer(networks), Harmonizer)


def test_the_seed_decides_and_a_batch_is_as_its_pictures_alone(networks, scene):
    composite, mask = scene
    one = harmonizer(networks)
    alone = one.harmonize(composite, mask, seed=1)
    batch = one.harmonize(torch.cat([composite, composite.flip(-1), composite]), mask.expand(3, -1, -1, -1), seed=1)
    assert torch.equal(batch[0], alone[0])
    assert torch.equal(batch[2], alone[0])
    assert not torch.equal(one.harmonize(composite, mask, seed=2), alone)


def test_the_controller_never_sees_the_noise(networks, scene, monkeypatch):
    seen = []
    walk = networks.controller._walk
    monkeypatch.setattr(networks.controller, "_walk", lambda *given: seen.append(given[:2]) or walk(*given))
    for seed in (0, 1):
        harmonizer(networks).harmonize(*scene, seed=seed)
    assert [time for _, time in seen] == [999.0, 0.0] * 2
    assert all(torch.equal(embedded, seen[0][0]) for embedded, _ in seen)


def test_hints_are_embedded_once_and_the_picture_encoded_once(networks, scene, monkeypatch):
    calls = []
    for owner, name in ((networks.controller, "embed_hint"), (networks.vae, "encode")):
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, m=method, n=name, **k: calls.append(n) or m(*a, **k))
    harmonizer(networks, steps=4).harmonize(*scene)
    assert sorted(calls) == ["embed_hint", "encode"]


def test_euler_puts_no_noise_in(networks, scene, monkeypatch):
    drawn = []
    real = torch.randn
    monkeypatch.setattr(pipeline.torch, "randn", lambda *a, **k: drawn.append(1) or real(*a, **k))
    harmonizer(networks, steps=4, sampler="euler").harmonize(*scene)
    assert len(drawn) == 2, "start noise and the composite's latent"
    drawn.clear()
    harmonizer(networks, steps=4).harmonize(*scene)
    assert len(drawn) == 6


@pytest.mark.parametrize(
    ("size", "settings", "expected"),
    [
        ((1024, 1024), {}, (1024, 1024)),
        ((3000, 4000), {}, (896, 1152)),
        ((3000, 4000), {"square": True}, (1024, 1024)),
        ((100, 150), {"resolution": 0}, (128, 128)),
        ((20, 2000), {"resolution": 128}, (64, 1280)),
    ],
)
def test_a_picture_is_worked_on_in_its_shape(size, settings, expected):
    assert working_size(size, R2RSettings(**settings)) == expected


def test_any_size_comes_back_as_it_was(networks):
    composite, mask = torch.rand(1, 3, 37, 101), torch.zeros(1, 1, 37, 101)
    mask[..., 10:30, 20:50] = 1
    result = harmonizer(networks).harmonize(composite, mask)
    assert result.shape == composite.shape
    assert 0 <= result.min() <= result.max() <= 1


def test_an_empty_mask_leaves_its_picture(networks, scene):
    composite, mask = scene
    both = harmonizer(networks).harmonize(composite.expand(2, -1, -1, -1), torch.cat([mask * 0.4, mask]))
    assert torch.equal(both[0], composite[0])
    assert not torch.equal(both[1], composite[0])


def test_a_mask_too_small_for_the_latent_still_works(networks, scene):
    composite, mask = scene[0], torch.zeros(1, 1, 64, 128)
    mask[..., 13, 13] = 1
    assert harmonizer(networks).harmonize(composite, mask).isfinite().all()


def test_a_full_mask_needs_a_reference(networks, scene):
    composite, full = scene[0], torch.ones(1, 1, 64, 128)
    with pytest.raises(RegionStyleError, match="mask: got"):
        harmonizer(networks).harmonize(composite, full)
    bright, dark = (
        harmonizer(networks).harmonize(composite, full, reference=torch.rand(1, 3, 70, 90) * scale)
        for scale in (1, 0.1)
    )
    assert bright.shape == composite.shape
    assert (bright - dark).abs().max() > 1e-5, "the reference must matter"


def test_the_reference_and_its_region_matter(networks, scene):
    one = harmonizer(networks)
    reference = F.interpolate(torch.rand(1, 3, 4, 4), (64, 128), mode="bicubic").clamp(0, 1)
    left = torch.zeros(1, 1, 64, 128)
    left[..., :64] = 1
    results = [
        one.harmonize(*scene),
        one.harmonize(*scene, reference=reference),
        one.harmonize(*scene, reference=reference, reference_mask=left),
        one.harmonize(*scene, reference=reference, reference_mask=1 - left),
    ]
    distances = [(a - b).abs().max() for i, a in enumerate(results) for b in results[:i]]
    assert min(distances) > 1e-5


def test_the_pictures_own_background_as_the_reference_changes_nothing(networks, scene):
    composite, mask = scene
    one = harmonizer(networks, steps=3)
    own = one.harmonize(composite, mask, reference=composite, reference_mask=1 - mask)
    assert (own - one.harmonize(composite, mask)).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"reference_mask": torch.ones(1, 1, 64, 128)}, "reference_mask: got a mask without"),
        ({"reference": torch.rand(2, 3, 64, 64)}, "reference: got 2 pictures"),
        ({"reference": torch.rand(1, 3, 64, 64) * 3}, "reference: got values"),
        ({"reference": torch.rand(1, 3, 64, 64), "reference_mask": torch.zeros(1, 1, 64, 64)}, "an empty mask"),
        ({"reference": torch.rand(1, 3, 64, 64), "reference_mask": torch.ones(1, 1, 32, 64)}, "reference_mask: got"),
    ],
)
def test_wrong_references_are_refused(networks, scene, more, part):
    with pytest.raises(RegionStyleError, match=part):
        harmonizer(networks).harmonize(*scene, **more)


def test_wrong_pictures_and_settings_are_refused(networks, scene):
    composite, mask = scene
    one = harmonizer(networks)
    for wrong in (
        (composite[0], mask),
        (composite, mask[..., 1:]),
        (composite * 2, mask),
        (composite, mask * math.nan),
    ):
        with pytest.raises(RegionStyleError):
            one.harmonize(*wrong)
    with pytest.raises(RegionStyleError, match="reference"):
        one.with_settings(controller=False).harmonize(*scene, reference=composite)
    for settings in ({"tile": 100}, {"tile": 64}, {"resolution": 32}, {"resolution": 0, "square": True}, {"steps": 0}):
        with pytest.raises(RegionStyleError):
            R2RSettings(**settings)


def test_steps_are_told_and_cancelling_stops(networks, scene):
    composite, mask = (part.expand(2, -1, -1, -1) for part in scene)
    told = []
    harmonizer(networks).harmonize(composite, mask, on_step=lambda *step: told.append(step))
    assert told == [(1, 4, None), (2, 4, None), (3, 4, None), (4, 4, None)]
    stopped = R2RHarmonizer(networks, LocalHost("cpu", cancelled=lambda: True), R2RSettings(steps=2, resolution=0))
    with pytest.raises(Cancelled):
        stopped.harmonize(*scene)


@pytest.mark.slow
def test_tiles_come_close_to_the_whole_and_need_the_whole_only_once(networks, scene):
    composite, mask = scene
    whole = harmonizer(networks, resolution=0, sampler="euler")
    large, around = (F.interpolate(part, (192, 384), mode="bilinear") for part in (composite, (mask > 0).float()))
    tiled = whole.with_settings(tile=128).harmonize(large, around)
    difference = (tiled - whole.harmonize(large, around)).abs()
    assert 0 < difference.mean() < 0.05  # what a tile's own normalisation changes with random weights


def test_memory_that_runs_out_halves_the_tile(networks, scene, monkeypatch):
    composite, mask = (F.interpolate(part, (128, 256)) for part in scene)
    tried = []
    real = pipeline.Autoencoding

    def limited(vae, picture, tile, **more):
        tried.append(tile)
        if tile > 128:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(vae, picture, tile, **more)

    monkeypatch.setattr(pipeline, "Autoencoding", limited)
    steps = []
    result = harmonizer(networks).harmonize(composite, mask, on_step=lambda done, total, _: steps.append((done, total)))
    assert tried == [256, 128]
    assert result.shape == composite.shape
    assert steps == [(1, 2), (2, 2)]


def test_without_controller_it_is_the_unet_alone(networks, scene):
    import dataclasses

    alone = dataclasses.replace(networks, controller=None)
    with pytest.raises(RegionStyleError, match="no Harmony Controller"):
        harmonizer(alone)
    one = harmonizer(alone, controller=False).harmonize(*scene)
    assert torch.equal(one, harmonizer(networks, controller=False).harmonize(*scene))
    assert not torch.equal(one, harmonizer(networks).harmonize(*scene))


def test_texture_finer_than_the_working_size_stays(networks):
    """Stripes of one pixel, which half the size cannot hold, come through a network that never saw them."""
    stripes = torch.zeros(1, 3, 128, 256)
    stripes[..., ::2] = 0.1
    composite = 0.4 + stripes
    mask = torch.zeros(1, 1, 128, 256)
    mask[..., 32:96, 64:160] = 1
    made = harmonizer(networks, resolution=64).harmonize(composite, mask)
    contrast = (made[..., 64, 64:160:2] - made[..., 64, 65:160:2])[made[..., 64, 64:160:2] < 0.99]
    assert len(contrast)
    assert contrast.median() > 0.05


def test_the_fine_part_alone_is_put_back():
    composite = torch.rand(1, 3, 100, 120)
    small = F.interpolate(composite, (50, 60), mode="bilinear", antialias=True)
    torch.testing.assert_close(with_fine_part(small, composite), composite)
    assert torch.equal(with_fine_part(composite * 0.5, composite), composite * 0.5)


def test_a_thin_mask_reaches_the_latent():
    mask = torch.zeros(2, 1, 512, 512)
    mask[0, :, 250:253, 250:253] = 1
    mask[1, :, 64:256, 64:256] = 1
    made = latent_mask(mask, (512, 512), (64, 64))
    assert 1 <= made[0].sum() <= 4
    assert torch.equal(made[1:], resized_mask(mask[1:], (64, 64)))
    assert latent_mask(mask * 0, (512, 512), (64, 64)).sum() == 0
