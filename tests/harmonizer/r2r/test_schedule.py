"""Noise levels and Euler steps against the published numbers and diffusers' schedulers."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.harmonizer.r2r.schedule import euler_step, noise_levels, scaled_input

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def test_ten_steps_have_the_published_levels():
    levels = noise_levels(10)
    assert levels.timesteps.tolist() == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    published = [14.6146, 7.8399, 4.6092, 2.9183, 1.9502, 1.3449, 0.9324, 0.6250, 0.3687, 0.0292, 0]
    assert levels.sigmas.tolist() == pytest.approx(published, abs=6e-5)


@pytest.mark.parametrize("steps", [2, 7, 10])
@pytest.mark.parametrize("ancestral", [True, False])
def test_steps_are_those_of_diffusers(steps, ancestral):
    from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

    scheduler = (EulerAncestralDiscreteScheduler if ancestral else EulerDiscreteScheduler)(**BETAS)
    scheduler.set_timesteps(steps)
    levels = noise_levels(steps)
    assert torch.allclose(levels.sigmas.float(), scheduler.sigmas, atol=1e-4)
    x = theirs = torch.randn(1, 4, 8, 8) * float(levels.sigmas[0])
    ours, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    for number, timestep in enumerate(scheduler.timesteps):
        sigma, following = levels.sigmas[number : number + 2].tolist()
        assert torch.allclose(scaled_input(x, sigma), scheduler.scale_model_input(theirs, timestep), atol=1e-4)
        eps = x.sin()
        noise = torch.randn(x.shape, generator=ours) if ancestral else None
        theirs = scheduler.step(eps, timestep, theirs, **({"generator": other} if ancestral else {})).prev_sample
        x = euler_step(x, eps, sigma, following, noise)
        assert torch.allclose(x, theirs, atol=1e-4)


def test_one_step_begins_in_noise():
    assert noise_levels(1).timesteps.tolist() == [999]


def test_no_steps_are_refused():
    with pytest.raises(RegionStyleError, match="steps: got 0"):
        noise_levels(0)
