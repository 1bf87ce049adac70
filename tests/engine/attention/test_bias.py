"""The bias on attention: what it adds, to which network, and that nothing of it stays."""

import pytest
import torch
from family_models import SHAPES, diffusers_network, diffusers_scheduler, family_inputs

from regionstyle.nodes.engine.attention.bias import AttentionBias, logit_deviation
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.families.registry import denoiser_of
from regionstyle.nodes.engine.predictor.base import Text

FAMILIES = ["sd", "sdxl", "sd3", "sd35", "flux"]
SIZE = (10, 14)


def words(family):
    """Groups `[2,M]` and valid words `[M]`."""
    length = SHAPES[family][0]
    groups, valid = torch.zeros(2, length, dtype=torch.bool), torch.zeros(length, dtype=torch.bool)
    groups[0, [1, 2]], groups[1, [5]] = True, True
    valid[1:12] = True
    return groups, valid


def masks():
    half = torch.zeros(2, *SIZE)
    half[0, :, :7], half[1, :, 7:] = 1, 1
    return half


@pytest.fixture(scope="module", params=FAMILIES)
def run(request):
    """family, network, and a function that runs it."""
    family = request.param
    network = diffusers_network(family)
    denoiser = denoiser_of(network, diffusers_scheduler(family))
    x, states, pooled = family_inputs(family, size=SIZE)

    @torch.no_grad()
    def call():
        valid = torch.ones(2, states.shape[1], dtype=torch.bool)
        return denoiser.call(x, 0.4, Text(states, pooled, [], [], valid))

    return family, network, call


def test_attention_rises_inside_and_falls_outside(run):
    """A group's log-odds rise by strength * std inside its mask and fall by as much outside."""
    family, network, call = run
    groups, valid = words(family)
    with AttentionTap(network, groups[None, :1], valid=valid) as tap:
        plain_output = call()
    plain = dict(tap.maps)
    with AttentionBias(network, groups[None, :1], masks()[None, :1], 2.0, valid) as bias:
        with AttentionTap(network, groups[None, :1], valid=valid, bias=bias) as tap:
            output = call()
        assert bias.acted == len(tap.maps)
    assert float((output - plain_output).abs().max()) > 1e-4 * float(plain_output.abs().max())
    first = next(iter(tap.maps))  # its queries and keys are those of the plain run
    difference = tap.maps[first] - plain[first]
    left, right = difference[..., : difference.shape[-1] // 2], difference[..., -(difference.shape[-1] // 2) :]
    for row in range(2):
        assert float(left[row].min()) > 0 > float(right[row].max())
        assert torch.allclose(left[row], -right[row], atol=1e-3)
        assert torch.allclose(left[row], left[row].mean().expand_as(left[row]), atol=1e-3)


def test_what_is_added_is_what_attention_uses(run):
    """The network's output under the bias is that of attention with these logits: a strength so high that a token gets
    all of the attention, or none, is the same as showing only that token."""
    family, network, call = run
    groups, valid = words(family)
    everywhere = torch.ones(1, 1, *SIZE)
    bias = AttentionBias(network, groups[None, :1], everywhere, 40.0, valid)
    with bias, AttentionTap(network, groups[None, :1], valid=valid, quantity="share", bias=bias) as tap:
        call()
    assert min(float(seen.min()) for seen in tap.maps.values()) > 0.95


def test_nothing_stays(run):
    family, network, call = run
    groups, valid = words(family)
    plain = call()
    with AttentionBias(network, groups, masks(), 2.0, valid):
        call()
    assert torch.equal(call(), plain)
    assert not sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())
    with pytest.raises(RuntimeError, match="in the middle"), AttentionBias(network, groups, masks(), 2.0, valid):
        raise RuntimeError("in the middle")
    assert torch.equal(call(), plain)


def test_rows_and_strength_zero(run):
    family, network, call = run
    groups, valid = words(family)
    plain = call()
    with AttentionBias(network, groups, masks(), 3.0, valid, rows=torch.tensor([True, False])):
        one = call()
    size = float(plain.abs().max())
    assert float((one[0] - plain[0]).abs().max()) > 1e-4 * size
    assert float((one[1] - plain[1]).abs().max()) < 1e-5 * size
    with AttentionBias(network, groups, masks(), 0.0, valid):
        assert float((call() - plain).abs().max()) < 1e-5 * size


def test_the_deviation_is_that_of_the_words():
    random = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 3, 50, 8, generator=random), torch.randn(2, 3, 11, 8, generator=random)
    valid = torch.zeros(2, 11, dtype=torch.bool)
    valid[:, 2:9] = True
    logits = (q @ k.mT * 8**-0.5)[..., 2:9]
    assert torch.allclose(logit_deviation(q, k, valid, None), logits.flatten(2).std(-1, unbiased=False).mean(1))


def test_wrong_numbers():
    network = diffusers_network("sd")
    groups, valid = torch.zeros(1, 1, 30, dtype=torch.bool), torch.ones(30, dtype=torch.bool)
    groups[0, 0, 1] = True
    with (
        AttentionBias(network, groups, masks()[None, :1], 1.0, valid),
        pytest.raises(RegionStyleError, match="30, those"),
    ):
        network(torch.zeros(1, 4, *SIZE), torch.tensor(5), torch.zeros(1, 77, 64))
