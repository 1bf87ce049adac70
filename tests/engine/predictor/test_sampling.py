"""DDIM: exact on a network that knows the truth, guidance in one call, callbacks, wrong times."""

import pytest
import torch

from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.predictor.base import NoisePredictor, Text
from regionstyle.nodes.engine.predictor.sampling import ddim, guided, keep_outside, partial_times
from regionstyle.nodes.engine.predictor.schedule import alpha_sigma_of_table, from_eps


class Oracle(NoisePredictor):
    """A network that knows x0: eps = (x - alpha x0) / sigma, plus a shift that each prompt asks for."""

    latent_channels = 4

    def __init__(self, x0, flow=False):
        self.x0, self.flow, self.calls = x0, flow, []
        self._table = torch.linspace(-3.5, 2.7, 1000, dtype=torch.float64)

    def alpha_sigma(self, t):
        if self.flow:
            t = torch.as_tensor(t, dtype=torch.float64)
            return 1 - t, t
        return alpha_sigma_of_table(self._table, t)

    def predict(self, x, t, text, gate=None):
        self.calls.append((len(x), t, gate))
        alpha, sigma = self.alpha_sigma(t)
        x0 = self.x0.repeat(len(x) // len(self.x0), 1, 1, 1)
        shift = text.repeat(len(x)).states[:, 0, 0].reshape(-1, 1, 1, 1)
        return from_eps(x, (x - alpha * x0) / sigma + shift, alpha, sigma)

    encode = encode_sample = decode = encode_text = loaded = None


def words(shift=0.0, count=1):
    return Text(
        torch.full((count, 3, 2), shift, dtype=torch.float64),
        None,
        [[0] * 3] * count,
        [[""] * 3] * count,
        torch.ones(count, 3, dtype=torch.bool),
    )


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_true_noise_leads_to_the_truth(flow, steps):
    x0, eps = noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=1)
    oracle = Oracle(x0, flow)
    start = oracle.add_noise(x0, eps, 0.8)
    result = ddim(oracle, start, partial_times(0.8, steps), words())
    assert (result - x0).abs().max() < 1e-6
    assert len(oracle.calls) == steps


def test_stopping_early_lands_on_the_noisy_truth():
    x0, eps = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    oracle = Oracle(x0)
    result = ddim(oracle, oracle.add_noise(x0, eps, 0.9), [0.9, 0.6, 0.3], words())
    assert (result - oracle.add_noise(x0, eps, 0.3)).abs().max() < 1e-6


def test_guidance_is_one_batched_call():
    """With eps + 1 for the positive and eps - 1 for the negative prompt, cfg 3 gives eps - 1 + 3 * 2."""
    x0 = noise(2, 4, 8, 8)
    oracle = Oracle(x0)
    x = oracle.add_noise(x0, torch.zeros_like(x0), 0.5)
    result = guided(oracle, x, 0.5, words(1.0), words(-1.0), cfg=3.0)
    assert (result.eps - 5).abs().max() < 1e-6
    assert [call[0] for call in oracle.calls] == [4]
    alpha, sigma = oracle.alpha_sigma(0.5)
    assert (alpha * result.denoised + sigma * result.eps - x).abs().max() < 1e-6


def test_cfg_one_needs_no_negative_pass():
    oracle = Oracle(noise(1, 4, 8, 8))
    ddim(oracle, noise(1, 4, 8, 8), [0.5, 0], words(), negative=words(-1.0), cfg=1.0)
    assert [call[0] for call in oracle.calls] == [1]
    with pytest.raises(RegionStyleError, match="cfg"):
        ddim(oracle, noise(1, 4, 8, 8), [0.5, 0], words(), cfg=5)


def test_on_step_comes_before_the_update_and_may_cancel():
    oracle, seen = Oracle(noise(1, 4, 8, 8)), []

    def on_step(index, prediction):
        seen.append((index, len(oracle.calls), prediction.denoised.shape))
        if index == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        ddim(oracle, noise(1, 4, 8, 8), partial_times(1, 4), words(), on_step=on_step)
    assert seen == [(0, 1, (1, 4, 8, 8)), (1, 2, (1, 4, 8, 8))]


def test_lock_holds_the_outside():
    x0, eps = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    oracle = Oracle(noise(1, 4, 8, 8, seed=2))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    seen = []

    def lock(x, t):
        result = keep_outside(oracle, x0, eps, mask)(x, t)
        seen.append(t)
        assert torch.equal(result[..., 4:], (oracle.add_noise(x0, eps, t) if t else x0)[..., 4:])
        assert torch.equal(result[..., :4], x[..., :4])
        return result

    result = ddim(oracle, oracle.add_noise(x0, eps, 0.6), [0.6, 0.3, 0.0], words(), lock=lock)
    assert seen == [0.3, 0.0]
    assert torch.equal(result[..., 4:], x0[..., 4:])
    assert (result[..., :4] - oracle.x0[..., :4]).abs().max() < 1e-6
    with pytest.raises(RegionStyleError, match="latent"):
        keep_outside(oracle, x0, eps, torch.ones(8, 8))


def test_times():
    assert partial_times(0.5, 2) == [0.5, 0.25, 0.0]
    assert partial_times(1, 3)[0] == 1
    for *wrong, said in ((0, 5, "strength: got 0"), (1.2, 5, "strength: got 1.2"), (0.5, 0, "steps: got 0")):
        with pytest.raises(RegionStyleError, match=said):
            partial_times(*wrong)
    for times in ([0.5], [0.2, 0.5], [0.5, 0.5], [1.5, 0.0]):
        with pytest.raises(RegionStyleError, match="times"):
            ddim(Oracle(noise(1, 4, 8, 8)), noise(1, 4, 8, 8), times, words())
