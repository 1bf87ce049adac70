"""Prompts kept apart: style words are read in their own region only, at the layer where they are read."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from family_models import diffusers_network, family_inputs

from regionstyle.nodes.engine.adapters.active_gates import ActiveGates
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.adapters.isolation import joint_bias
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.families.token_layout import TokenLayout
from regionstyle.nodes.engine.host.context import prompts_of_batch
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer

MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()
SIZE, TEXT = (10, 14), 77
CROSS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
# 77 tokens: shared by all 0..30, of the first region 30..50, of the second 50..77.
ONE, TWO = torch.zeros(TEXT, dtype=torch.bool), torch.zeros(TEXT, dtype=torch.bool)
ONE[:50] = True
TWO[:30] = TWO[50:] = True
REST = torch.arange(TEXT) < 30


def lora(name, path, module, seed):
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(2, module.in_features, generator=generator) / module.in_features**0.5
    return Expert(name, {path: LoraLayer(down, torch.randn(module.out_features, 2, generator=generator) * 0.3)})


@pytest.fixture(scope="module")
def unet():
    return diffusers_network("sd")


@pytest.fixture(scope="module")
def stack(unet):
    layer = unet.get_submodule(f"{CROSS}.to_v")
    return ExpertStack(unet, [lora(name, f"{CROSS}.to_v", layer, seed) for seed, name in enumerate(("a", "b"), 1)])


def halves(soft=False):
    """Left and right third, nothing between them."""
    one, two = torch.zeros(1, *SIZE), torch.zeros(1, *SIZE)
    one[..., :5], two[..., 9:] = 1, 1
    if soft:
        one[..., 5:8], two[..., 7:9] = 0.5, 0.25
    return one, two


def isolated(one, two, **options):
    return Gates(
        {"a": RegionGate(one, visible_tokens=ONE), "b": RegionGate(two, visible_tokens=TWO)},
        rest_visible_tokens=REST,
        **options,
    )


def run(unet, text, batch=2):
    latent = family_inputs("sd", batch)[0]
    with torch.no_grad():
        return unet(latent, 300, encoder_hidden_states=text).sample


def at_layer(unet, path, stack, gates, text):
    """Input and output of a layer."""
    seen = {}
    hook = unet.get_submodule(path).register_forward_hook(
        lambda module, args, kwargs, out: seen.update(x=args[0], out=out), with_kwargs=True
    )
    with stack, stack.using(gates):
        run(unet, text)
    hook.remove()
    return seen


@pytest.mark.parametrize("soft", [False, True])
def test_it_equals_separate_passes_over_what_each_region_reads(unet, stack, soft):
    text = family_inputs("sd")[1]
    one, two = halves(soft)
    seen = at_layer(unet, CROSS, stack, isolated(one, two), text)
    attention, layer = unet.get_submodule(CROSS), unet.get_submodule(f"{CROSS}.to_v")
    shares = [one, two, 1 - one - two]
    expected = 0
    for name, reads, share in zip(("a", "b", ""), (ONE, TWO, REST), shares, strict=True):
        weight = layer.weight.data.clone()
        if name:
            update = stack.expert(name).layers[f"{CROSS}.to_v"]
            layer.weight.data += update.up @ update.down
        own = attention(seen["x"], encoder_hidden_states=text[:, reads])
        layer.weight.data = weight
        expected = expected + share.flatten(1)[..., None] * own
    torch.testing.assert_close(seen["out"], expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_tokens_contribute_exactly_nothing_outside_their_region(unet, stack):
    text = family_inputs("sd")[1]
    other = text.clone()
    other[:, 30:50] += 3.0
    one, two = halves()
    outs = []
    for given in (text, other):
        attention = unet.get_submodule(CROSS)
        x = torch.randn(2, SIZE[0] * SIZE[1], 32, generator=torch.Generator().manual_seed(1))
        with stack, stack.using(isolated(one, two)):
            stack._gated.layout = TokenLayout((SIZE,), halves=True)
            outs.append(attention(x, encoder_hidden_states=given).detach())
    changed = (outs[0] != outs[1]).any(-1).reshape(2, *SIZE)
    assert torch.equal(changed, one.bool().expand(2, -1, -1))


def test_without_isolation_they_do(unet, stack):
    text = family_inputs("sd")[1]
    other = text.clone()
    other[:, 30:50] += 3.0
    one, two = halves()
    gates = Gates({"a": one, "b": two})
    outs = [at_layer(unet, CROSS, stack, gates, given)["out"] for given in (text, other)]
    assert bool((outs[0] != outs[1]).any(-1).all())


def test_only_the_positive_prompt_is_kept_apart(unet, stack):
    text = family_inputs("sd")[1]
    one, two = halves()
    with stack, prompts_of_batch([False, True]), torch.no_grad():
        with stack.using(isolated(one, two)):
            both = run(unet, text)
        with stack.using(Gates({"a": one, "b": two})):
            plain = run(unet, text)
    with stack, stack.using(isolated(one, two)):
        alone = run(unet, text)
    torch.testing.assert_close(both[0], plain[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(both[1], alone[1], rtol=0, atol=1e-5)
    assert float((alone[0] - plain[0]).abs().max()) > 1e-3


def test_a_prompt_repeated_beside_a_longer_one_reads_the_same(unet, stack):
    text = family_inputs("sd")[1]
    with stack, stack.using(isolated(*halves())):
        once, twice = run(unet, text), run(unet, text.repeat(1, 2, 1))
    torch.testing.assert_close(once, twice, rtol=0, atol=1e-5)


def test_a_wrapper_of_another_pack_around_the_attention_is_kept(unet, stack):
    """It may take its arguments as they come."""
    text, attention, calls = family_inputs("sd")[1], unet.get_submodule(CROSS), []
    with stack, stack.using(isolated(*halves())):
        expected = run(unet, text)
    found = attention.forward

    def foreign(x, *a, **kw):
        calls.append(kw["encoder_hidden_states"].shape[1])
        return found(x, *a, **kw)

    attention.forward = foreign
    try:
        with stack, stack.using(isolated(*halves())):
            got = run(unet, text)
    finally:
        del attention.forward
    assert calls == [int(ONE.sum()), int(TWO.sum()), int(REST.sum())]
    assert torch.equal(got, expected)


@pytest.mark.parametrize("off", ["strength", "mask"])
def test_places_read_their_own_tokens_also_where_the_experts_are_off(unet, stack, off):
    """A strength of 0, or things that are nowhere, must not let every word into every place."""
    text = family_inputs("sd")[1]
    one, two = halves()
    nobody = ExpertStack(unet, [replace(e, layers=_zeros(e)) for e in map(stack.expert, stack.names)])
    if off == "strength":
        gates = Gates(
            {"a": RegionGate(one, 0.0, visible_tokens=ONE), "b": RegionGate(two, 0.0, visible_tokens=TWO)},
            rest_visible_tokens=REST,
        )
        with nobody, nobody.using(isolated(one, two)):
            expected = run(unet, text)
    else:
        gates = isolated(one * 0, two * 0)
        expected = run(unet, text[:, REST])
    with stack, stack.using(gates):
        got = run(unet, text)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert float((run(unet, text) - expected).abs().max()) > 1e-3


def _zeros(expert):
    return {path: replace(layer, up=torch.zeros_like(layer.up)) for path, layer in expert.layers.items()}


@pytest.mark.parametrize(
    ("reads", "said"),
    [(torch.ones(TEXT), "bool"), (torch.zeros(TEXT, dtype=torch.bool), "one or more"), (ONE[None], "bool")],
)
def test_what_may_be_read_is_checked(reads, said):
    for gates in (Gates({"a": RegionGate(torch.ones(4, 4), visible_tokens=reads)}),
                  Gates({"a": torch.ones(4, 4)}, rest_visible_tokens=reads)):  # fmt: skip
        with pytest.raises(RegionStyleError, match=said):
            ActiveGates(gates, ["a"])


def test_another_prompt_than_the_one_that_was_encoded_is_an_error(unet, stack):
    with stack, stack.using(isolated(*halves())), pytest.raises(RegionStyleError, match="77 entries"):
        run(unet, family_inputs("sd")[1][:, :60])


# --- text and image in one sequence ------------------------------------------------------------------------------


def test_the_bias_follows_shares_and_readers():
    """Two places: one whole in region a, one half in a and half in the rest. Tokens: shared, a's, the rest's."""
    reads = torch.tensor([True, True, False])
    mask = torch.tensor([[[1.0, 0.5]]])
    gates = ActiveGates(
        Gates({"a": RegionGate(mask, visible_tokens=reads)}, rest_visible_tokens=torch.tensor([True, False, True])),
        ["a"],
    )
    bias = joint_bias(gates, TokenLayout(((1, 2),), 3), 1, torch.device("cpu"), torch.float32)[0]
    assert bias.shape == (5, 5)
    weights = bias.exp()
    assert weights[3:, :3].tolist() == [[1, 1, 0], [1, 0.5, 0.5]]
    assert torch.equal(weights[:3, 3:], weights[3:, :3].T)
    assert weights[:3, :3].tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert weights[3:, 3:].eq(1).all()


@pytest.mark.parametrize("family", ["flux"])
def test_places_of_a_transformer_read_their_own_tokens_only(family):
    """The first joint attention: its image rows depend on another region's text rows not at all."""
    network = diffusers_network(family)
    path = "transformer_blocks.0.attn"
    layer = network.get_submodule(f"{path}.to_v")
    stack = ExpertStack(network, [lora("a", f"{path}.to_v", layer, 1)])
    mask = torch.zeros(1, 4, 6)
    mask[..., :3] = 1
    reads, rest = torch.arange(20) < 12, torch.ones(20, dtype=torch.bool)
    rest[6:12] = False
    ids = torch.zeros(24, 3)
    ids[:, 1], ids[:, 2] = torch.arange(24) // 6, torch.arange(24) % 6

    def outputs(text, gates):
        seen = {}
        hook = network.get_submodule(path).register_forward_hook(lambda m, a, out: seen.update(out=out[0]))
        generator = torch.Generator().manual_seed(1)
        x, pooled = torch.randn(2, 24, 64, generator=generator), torch.randn(2, 48, generator=generator)
        with stack, stack.using(gates), torch.no_grad():
            network(x, text, pooled, torch.full((2,), 0.4), ids, torch.zeros(20, 3), torch.full((2,), 3.5))
        hook.remove()
        return seen["out"]

    text = family_inputs(family)[1]
    other = text.clone()
    other[:, 6:12] += 3.0
    gates = Gates({"a": RegionGate(mask, visible_tokens=reads)}, rest_visible_tokens=rest)
    changed = (outputs(text, gates) != outputs(other, gates)).any(-1).reshape(2, 4, 6)
    assert torch.equal(changed, mask.bool().expand(2, -1, -1))
    plain = Gates({"a": mask})
    assert bool((outputs(text, plain) != outputs(other, plain)).any(-1).all())


COMFY = """
import comfy.sample
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.families.registry import family_of
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate

# Family: the diffusers path that gets an update, the module whose output is looked at, which output, latent, grid.
CASES = {
    "sd": ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v",
           "input_blocks.1.1.transformer_blocks.0.attn2", None, (8, 6), (8, 6)),
    "sd3": ("transformer_blocks.0.attn.to_v", "joint_blocks.0", 1, (8, 12), (4, 6)),
    "sd35": ("transformer_blocks.0.attn.to_v", "joint_blocks.0", 1, (8, 12), (4, 6)),
    "flux": ("transformer_blocks.0.attn.to_v", "double_blocks.0", 0, (8, 12), (4, 6)),
}

def places(family):
    path, watched, which, size, grid = CASES[family]
    model = comfy_model(family)
    network = model.model.diffusion_model
    place = family_of(network).layer_slices(network)[path]
    layer = network.get_submodule(place.module)
    rows = len(range(layer.out_features)[place.rows or slice(None)])
    expert = Expert("a", {path: LoraLayer(noise(2, layer.in_features) / 8, noise(rows, 2) / 8)})
    mask = torch.zeros(1, *grid)
    mask[..., : grid[1] // 2] = 1
    length, width, pooled, channels = COMFY_SHAPES[family]
    reads, rest = torch.arange(length) < 12, torch.ones(length, dtype=torch.bool)
    rest[6:12] = False
    isolating = Gates({"a": RegionGate(mask, visible_tokens=reads)}, rest_visible_tokens=rest)
    apart = attach_to_comfy(model, [expert], isolating)
    plain = attach_to_comfy(model, [expert], Gates({"a": mask}))
    text = family_conditioning(family)
    other = [[text[0][0].clone(), text[0][1]]]
    other[0][0][:, 6:12] += 3.0

    def changed(patched):
        outs = []
        for positive in (text, other):
            seen = []
            hook = network.get_submodule(watched).register_forward_hook(lambda m, a, out: seen.append(out))
            comfy.sample.sample(patched, noise(1, channels, *size), 1, 4.0, "euler", "normal", positive,
                                family_conditioning(family, 1), torch.zeros(1, channels, *size), disable_pbar=True,
                                seed=0)
            hook.remove()
            # positive and negative prompt may run together or one after the other
            outs.append(torch.cat([out if which is None else out[which] for out in seen]))
        return (outs[0] != outs[1]).any(-1).any(0).reshape(grid)

    return dict(apart=torch.equal(changed(apart), mask[0].bool()), plain=bool(changed(plain).all()))

with torch.inference_mode():
    print(json.dumps({family: places(family) for family in CASES}))
"""


def check_comfy(result):
    assert result == {family: {"apart": True, "plain": True} for family in ("sd", "sd3", "sd35", "flux")}


@pytest.mark.slow
def test_every_family_of_comfy(run_in_comfy):
    check_comfy(run_in_comfy(MODELS + COMFY))


@pytest.mark.slow
def test_every_family_of_the_oldest_comfy(run_in_old_comfy):
    check_comfy(run_in_old_comfy(MODELS + COMFY))


def test_a_network_that_takes_no_bias_says_which_do():
    network = diffusers_network("sd3")
    path = "transformer_blocks.0.attn.to_v"
    stack = ExpertStack(network, [lora("a", path, network.get_submodule(path), 1)])
    latent, text, pooled = family_inputs("sd3")
    gates = Gates({"a": RegionGate(torch.ones(4, 4), visible_tokens=torch.ones(24, dtype=torch.bool))})
    with stack, stack.using(gates), pytest.raises(RegionStyleError, match="SD3 of ComfyUI"):
        network(latent, text, pooled, torch.full((2,), 400.0))
