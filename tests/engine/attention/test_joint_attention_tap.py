"""The tap on diffusers networks of every family against softmax over the queries and keys the attention really got."""

import pytest
import torch
from family_models import diffusers_network, diffusers_scheduler, family_inputs

from regionstyle.nodes.engine.attention.cross import attention_layers
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor

GROUPS = [[1, 2], [5]]
JOINT = ["sd3", "sd35", "flux", "schnell"]
LAYERS = {
    "sdxl": ["down_blocks.1", "mid_block", "up_blocks.0"],
    "sd3": ["transformer_blocks.0.attn", "transformer_blocks.1.attn"],
    "sd35": ["transformer_blocks.0.attn", "transformer_blocks.1.attn"],
    "flux": ["transformer_blocks.0.attn", "single_transformer_blocks.0.attn", "single_transformer_blocks.1.attn"],
}
LAYERS["schnell"] = LAYERS["flux"]


class Vae(torch.nn.Module):
    class config:
        block_out_channels, scaling_factor = (1, 2, 3, 4), 1.0


@pytest.fixture(scope="module")
def networks():
    made = {}
    return lambda family: made.setdefault(family, diffusers_network(family))


def predictor_of(network, family):
    return DiffusersPredictor(network, Vae(), None, None, diffusers_scheduler(family), LocalHost("cpu"))


def text_of(states, pooled):
    rows = [[0] * states.shape[1]] * len(states), [[""] * states.shape[1]] * len(states)
    return Text(states, pooled, *rows, torch.ones(states.shape[:2], dtype=torch.bool))


def predict(network, family, inputs, t=0.4):
    x, states, pooled = inputs
    return predictor_of(network, family).predict(x, t, text_of(states, pooled))


def valid_of(inputs):
    valid = torch.zeros(inputs[1].shape[:2], dtype=torch.bool)
    valid[0, 1:9] = valid[1, 1:15] = True
    return valid


@pytest.fixture
def attended(monkeypatch):
    """What the joint attentions were really called with: (q, k) `[B,H,N,D]`, in order."""
    seen, fused = [], torch.nn.functional.scaled_dot_product_attention

    def attention(query, key, value, **options):
        seen.append((query, key))
        return fused(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    return seen


def split(family, q, k, words, places):
    """Image queries and text keys: diffusers' SD3 puts the picture first, Flux the text."""
    if family.startswith("sd3"):
        return q[:, :, :places], k[:, :, places : places + words]
    return q[:, :, words : words + places], k[:, :, :words]


def expected(q, k, valid, quantity):
    """`[B,G,N]` by the definitions."""
    logits = q @ k.mT * q.shape[-1] ** -0.5
    maps = []
    for row, ok in zip(logits, valid, strict=True):
        for group in GROUPS:
            inside = torch.zeros(k.shape[2], dtype=torch.bool)
            inside[group] = True
            if quantity == "share":
                maps.append(row.masked_fill(~ok, -torch.inf).softmax(-1)[..., inside].sum(-1).mean(0))
            else:
                rest = ok & ~inside
                odds = row[..., inside].logsumexp(-1) - row[..., rest].logsumexp(-1)
                maps.append(odds.mean(0) - torch.log(inside.sum() / rest.sum()))
    return torch.stack(maps).unflatten(0, (len(logits), -1))


@pytest.mark.parametrize("quantity", ["logodds", "share"])
@pytest.mark.parametrize("family", JOINT)
def test_maps_equal_softmax_of_what_the_attention_got(networks, attended, family, quantity):
    network, inputs = networks(family), family_inputs(family, size=(9, 14))
    valid, words = valid_of(inputs), inputs[1].shape[1]
    with AttentionTap(network, GROUPS, valid=valid, quantity=quantity) as tap:
        predict(network, family, inputs)
    joint = [(q, k) for q, k in attended if q.shape[2] == words + 35]
    assert list(tap.maps) == LAYERS[family]
    assert len(joint) == len(tap.maps)
    for (q, k), found in zip(joint, tap.maps.values(), strict=True):
        assert found.shape == (2, 2, 5, 7)
        wanted = expected(*split(family, q, k, words, 35), valid, quantity)
        assert wanted.std() > 1e-3
        torch.testing.assert_close(found.flatten(2), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["sdxl", *JOINT])
def test_the_output_stays_and_everything_is_put_back(networks, family):
    network, inputs = networks(family), family_inputs(family)
    before = predict(network, family, inputs)
    with AttentionTap(network, GROUPS) as tap:
        during = predict(network, family, inputs)
    assert [path for path in LAYERS[family] if not any(p.startswith(path) for p in tap.maps)] == []
    assert torch.equal(before.eps, during.eps)
    with pytest.raises(RuntimeError, match="shape"), AttentionTap(network, GROUPS):
        predict(network, family, (inputs[0], inputs[1][..., :5], inputs[2]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("family", ["sdxl", "sd35", "flux"])
def test_gradients_agree_with_finite_differences(family):
    """In float64, of a map's loss to the latent and to the words."""
    network = diffusers_network(family).double()
    x, states, pooled = (value.double() for value in family_inputs(family, batch=1, size=(4, 6)))
    weight = torch.linspace(-1, 1, 6, dtype=torch.float64)
    # The rotation of Flux and the norms of SD3.5 are computed in float32 whatever the network's dtype is, which is
    # too rough for a small step.
    step = 1e-5 if family == "sdxl" else 1e-3

    def loss(latent, words):
        with AttentionTap(network, GROUPS) as tap:
            predict(network, family, (latent, words, pooled))
        return (tap.mean((4, 6)) * weight).sum()

    inputs = [value.clone().requires_grad_() for value in (x, states)]
    for at, gradient in enumerate(torch.autograd.grad(loss(*inputs), inputs)):
        way = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            moved = [x, states]
            moved[at] = moved[at] + sign * step * way
            with torch.no_grad():
                ends.append(loss(*moved))
        slope = float(ends[0] - ends[1]) / (2 * step)
        assert abs(slope) > 1e-4
        assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-3)


def test_flux_reference_pictures_are_left_out(networks, attended):
    """Kontext appends the tokens of a reference picture, with another first position number."""
    network, (_, states, pooled) = networks("schnell"), family_inputs("schnell", batch=1)
    ids = torch.zeros(6 + 4, 3)
    ids[:6, 1:] = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0))
    ids[6:, 0] = 1
    ids[6:, 1:] = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0))
    hidden = torch.randn(1, 10, 64, generator=torch.Generator().manual_seed(5))
    with AttentionTap(network, GROUPS, quantity="share") as tap:
        network(hidden, states, pooled, torch.tensor([0.5]), ids, torch.zeros(20, 3))
    everything = torch.ones(1, 20, dtype=torch.bool)
    for (q, k), found in zip(attended, tap.maps.values(), strict=True):
        wanted = expected(q[:, :, 20:26], k[:, :, :20], everything, "share")
        torch.testing.assert_close(found.flatten(2), wanted, rtol=1e-4, atol=1e-5)


def test_wrong_input(networks):
    network, inputs = networks("flux"), family_inputs("flux")
    with pytest.raises(RegionStyleError, match="transformer_blocks.7"):
        AttentionTap(network, GROUPS, layers=["transformer_blocks.7.attn"])
    with pytest.raises(RegionStyleError, match="0..19"), AttentionTap(network, [[20]]):
        predict(network, "flux", inputs)
    with pytest.raises(RegionStyleError, match="Flux"):
        attention_layers(torch.nn.Linear(2, 2))
    mask = {"attention_mask": torch.ones(1, 1, 1, 55, dtype=torch.bool)}
    places = torch.cat([torch.zeros(35, 1), torch.cartesian_prod(torch.arange(5.0), torch.arange(7.0))], 1)
    level, ids = torch.full((2,), 0.5), (places, torch.zeros(20, 3))
    packed = torch.randn(2, 35, 64), *inputs[1:], level, *ids
    with pytest.raises(RegionStyleError, match="attention mask"), AttentionTap(network, GROUPS):
        network(*packed, guidance=level, joint_attention_kwargs=mask)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    network.fuse_qkv_projections()
    with pytest.raises(RegionStyleError, match="unfuse"), AttentionTap(network, GROUPS):
        pass
    network.unfuse_qkv_projections()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
