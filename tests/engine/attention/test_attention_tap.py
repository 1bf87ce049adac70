"""The attention tap against explicit attention from the outputs of to_q and to_k."""

from types import SimpleNamespace

import pytest
import torch

from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.attention.cross import cross_attentions
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer

TOKENS, GROUPS = 120, [[1, 2], [5]]  # as many text tokens as the first layer has places: lengths tell nothing
GRIDS = {"down_blocks.0": (12, 10), "down_blocks.1": (6, 5), "mid_block": (6, 5)}


@pytest.fixture(scope="module")
def unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(64, 128), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=24, attention_head_dim=4, norm_num_groups=32,
    ).eval().requires_grad_(False)  # fmt: skip


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 12, 10, generator=generator), torch.randn(2, TOKENS, 24, generator=generator) * 3


@pytest.fixture
def valid():
    valid = torch.zeros(2, TOKENS, dtype=torch.bool)
    valid[0, 1:9] = valid[1, 1:40] = True
    return valid


def resolved(unet, inputs):
    """Path -> scaled logits `[B,H,N,M]` of every cross-attention."""
    seen, handles = {}, []
    for path, module in unet.named_modules():
        if path.endswith("attn2"):
            for name in ("to_q", "to_k"):
                hook = lambda m, a, out, key=(path, name): seen.update({key: out})  # noqa: E731
                handles.append(getattr(module, name).register_forward_hook(hook))
    unet(inputs[0], 300, encoder_hidden_states=inputs[1])
    for handle in handles:
        handle.remove()
    split = {key: out.unflatten(-1, (4, -1)).transpose(1, 2) for key, out in seen.items()}
    paths = {path for path, _ in seen}
    return {p: split[p, "to_q"] @ split[p, "to_k"].mT * split[p, "to_q"].shape[-1] ** -0.5 for p in paths}


def expected(logits, valid, quantity):
    """`[B,G,N]` by the definitions."""
    maps = []
    for row, ok in zip(logits, valid, strict=True):
        for group in GROUPS:
            inside = torch.zeros(TOKENS, dtype=torch.bool)
            inside[group] = True
            if quantity == "share":
                attention = row.masked_fill(~ok, -torch.inf).softmax(-1)
                maps.append(attention[..., inside].sum(-1).mean(0))
            else:
                rest = ok & ~inside
                odds = row[..., inside].logsumexp(-1) - row[..., rest].logsumexp(-1)
                maps.append(odds.mean(0) - torch.log(inside.sum() / rest.sum()))
    return torch.stack(maps).unflatten(0, (len(logits), -1))


@pytest.mark.parametrize("quantity", ["logodds", "share"])
def test_maps_equal_explicit_attention_at_every_layer(unet, inputs, valid, quantity):
    logits = resolved(unet, inputs)
    with AttentionTap(unet, GROUPS, valid=valid, quantity=quantity) as tap:
        unet(inputs[0], 300, encoder_hidden_states=inputs[1])
    assert set(tap.maps) == set(logits) == {p for p, _ in unet.named_modules() if p.endswith("attn2")}
    for path, seen in tap.maps.items():
        torch.testing.assert_close(seen.flatten(2), expected(logits[path], valid, quantity), rtol=1e-4, atol=1e-5)
        for start, grid in GRIDS.items():
            assert not path.startswith(start) or seen.shape == (2, 2, *grid)


def test_the_mean_resizes_and_chooses_layers(unet, inputs, valid):
    with AttentionTap(unet, GROUPS, valid=valid, quantity="share") as tap:
        unet(inputs[0], 300, encoder_hidden_states=inputs[1])
    small = [path for path in tap.maps if path.startswith(("mid_block", "down_blocks.1"))]
    assert tap.mean().shape == (2, 2, 12, 10)
    mean = sum(tap.maps[path] for path in small) / len(small)
    torch.testing.assert_close(tap.mean(layers=small), mean)
    assert tap.mean((24, 20)).shape == (2, 2, 24, 20)
    tap.maps = {"x": torch.rand(1, 1, 12, 10, requires_grad=True)}
    shrunk = torch.autograd.grad(tap.mean((4, 3)).sum(), tap.maps["x"])[0]
    assert (shrunk > 0).all()
    chosen = AttentionTap(SimpleNamespace(network=unet), GROUPS, valid=valid, layers=small)
    with chosen:
        unet(inputs[0], 300, encoder_hidden_states=inputs[1])
    assert set(chosen.maps) == set(small)


def test_the_output_and_the_processors_stay_as_they_are(unet, inputs):
    calls = []

    class Own(type(next(iter(unet.attn_processors.values())))):
        def __call__(self, *args, **kwargs):
            calls.append(1)
            return super().__call__(*args, **kwargs)

    before = unet.attn_processors
    unet.set_attn_processor(Own())
    own = unet.attn_processors
    base = unet(inputs[0], 300, encoder_hidden_states=inputs[1]).sample
    count = len(calls)
    with AttentionTap(unet, GROUPS) as tap:
        assert torch.equal(unet(inputs[0], 300, encoder_hidden_states=inputs[1]).sample, base)
        assert len(calls) == 2 * count == 4 * len(tap.maps)
        assert unet.attn_processors == own
    with pytest.raises(RuntimeError, match="shape"), AttentionTap(unet, GROUPS):
        unet(inputs[0], 300, encoder_hidden_states=inputs[1][..., :5])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())
    unet.set_attn_processor(before)


def test_maps_are_those_of_the_last_pass(unet, inputs):
    with AttentionTap(unet, GROUPS) as tap:
        unet(inputs[0], 300, encoder_hidden_states=inputs[1])
        first = tap.mean()
        unet(inputs[0] + 1, 300, encoder_hidden_states=inputs[1])
        assert not torch.equal(tap.mean(), first)
        unet(inputs[0], 300, encoder_hidden_states=inputs[1])
    assert torch.equal(tap.mean(), first)


@pytest.mark.parametrize("quantity", ["logodds", "share"])
def test_gradients_reach_latent_and_text(unet, inputs, valid, quantity):
    x, text = (tensor.clone().requires_grad_() for tensor in inputs)

    def loss(latent, words):
        with AttentionTap(unet, GROUPS, valid=valid, quantity=quantity) as tap:
            unet(latent, 300, encoder_hidden_states=words)
        return (tap.mean() * torch.linspace(0, 1, 10)).sum()

    def plain(latent, words):
        logits = resolved(unet, (latent, words))
        maps = [expected(rows, valid, quantity) for rows in logits.values()]
        grids = [m.unflatten(-1, (12, 10) if m.shape[-1] == 120 else (6, 5)) for m in maps]
        large = [torch.nn.functional.interpolate(m, (12, 10), mode="bilinear") for m in grids]
        return (torch.stack(large).mean(0) * torch.linspace(0, 1, 10)).sum()

    ours, theirs = (torch.autograd.grad(f(x, text), (x, text)) for f in (loss, plain))
    for a, b in zip(ours, theirs, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_regions_blend_the_maps_of_their_passes(unet, inputs):
    path = "mid_block.attentions.0.transformer_blocks.0.attn2"
    torch.manual_seed(3)
    expert = Expert("a", {f"{path}.to_k": LoraLayer(torch.randn(2, 24), torch.randn(128, 2))})
    mask = torch.rand(1, 6, 5)

    def maps(gates):
        with ExpertStack(unet, [expert]) as stack, AttentionTap(unet, GROUPS, layers=[path]) as tap:
            stack.set(Gates(gates))
            unet(inputs[0] + 1, 300, encoder_hidden_states=inputs[1])
            unet(inputs[0], 300, encoder_hidden_states=inputs[1])
        return tap.maps[path]

    blend = mask * maps({"a": 1.0}) + (1 - mask) * maps({})
    assert (maps({"a": 1.0}) - maps({})).abs().max() > 0.1
    torch.testing.assert_close(maps({"a": mask}), blend)


def test_two_stacks_blend_inside_each_other(unet, inputs):
    path = "mid_block.attentions.0.transformer_blocks.0.attn2"
    torch.manual_seed(3)
    one, two = (Expert("x", {f"{path}.to_k": LoraLayer(torch.randn(2, 24), torch.randn(128, 2))}) for _ in range(2))
    first, second = torch.rand(1, 6, 5), torch.rand(1, 6, 5)

    def maps(*gates):
        with ExpertStack(unet, [one]) as a, ExpertStack(unet, [two]) as b, AttentionTap(unet, GROUPS) as tap:
            a.set(Gates({"x": gates[0]}))
            b.set(Gates({"x": gates[1]}))
            unet(inputs[0], 300, encoder_hidden_states=inputs[1])
        return tap.maps[path]

    inside = second * maps(1, 1) + (1 - second) * maps(1, 0)
    outside = second * maps(0, 1) + (1 - second) * maps(0, 0)
    torch.testing.assert_close(maps(first, second), first * inside + (1 - first) * outside)


def test_marks_of_one_prompt_count_for_all_images(unet, inputs, valid):
    groups = torch.zeros(1, 2, TOKENS, dtype=torch.bool)
    groups[0, 0, [1, 2]] = groups[0, 1, 5] = True
    for quantity in ("logodds", "share"):
        found = []
        for given, words in ((GROUPS, valid[0]), (groups, valid[:1])):
            with torch.no_grad(), AttentionTap(unet, given, valid=words, quantity=quantity) as tap:
                unet(inputs[0], 300, encoder_hidden_states=inputs[1])
            found.append(tap.mean())
        assert torch.equal(*found)


@pytest.mark.parametrize("quantity", ["logodds", "share"])
def test_marks_that_do_not_fit_the_prompt_say_what_does(unet, inputs, quantity):
    def marks(*shape):
        return torch.ones(*shape, dtype=torch.bool)

    for groups, valid, said in (
        (marks(1, TOKENS - 1), None, r"groups: got torch.bool \[1, 119\], expected bool \[G,120\] or \[2,G,120\]"),
        (marks(3, 1, TOKENS), None, r"groups: got torch.bool \[3, 1, 120\]"),
        (marks(1, TOKENS).long(), None, r"groups: got torch.int64"),
        (GROUPS, marks(77), r"valid: got torch.bool \[77\], expected bool \[120\] or \[2,120\]"),
        (GROUPS, marks(3, TOKENS), r"valid: got torch.bool \[3, 120\]"),
    ):
        with pytest.raises(RegionStyleError, match=said), AttentionTap(unet, groups, valid=valid, quantity=quantity):
            unet(inputs[0], 300, encoder_hidden_states=inputs[1])


def test_wrong_input(unet, inputs):
    with pytest.raises(RegionStyleError, match="up_blocks.9"):
        AttentionTap(unet, GROUPS, layers=["up_blocks.9.attn2"])
    with pytest.raises(RegionStyleError, match="one or more"):
        AttentionTap(unet, GROUPS, layers=[])
    with pytest.raises(RegionStyleError, match="quantity"):
        AttentionTap(unet, GROUPS, quantity="x")
    with pytest.raises(RegionStyleError, match="UNet2DConditionModel"):
        AttentionTap(torch.nn.Linear(2, 2), GROUPS)
    for groups in ([], [[]], [[TOKENS]]):
        with pytest.raises(RegionStyleError, match="0..119"), AttentionTap(unet, groups):
            unet(inputs[0], 300, encoder_hidden_states=inputs[1])
    with pytest.raises(RegionStyleError, match="no map"):
        AttentionTap(unet, GROUPS).mean()
    with AttentionTap(unet, GROUPS, layers=list(cross_attentions(unet))[:1]) as tap:
        unet(inputs[0], 300, encoder_hidden_states=inputs[1])
    with pytest.raises(RegionStyleError, match="mid_block"):
        tap.mean(layers=["mid_block.attentions.0.transformer_blocks.0.attn2"])
    unet.fuse_qkv_projections()
    with pytest.raises(RegionStyleError, match="unfuse"), AttentionTap(unet, GROUPS):
        pass
    unet.unfuse_qkv_projections()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())
