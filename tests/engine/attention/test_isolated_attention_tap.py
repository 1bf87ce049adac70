"""Maps of words while prompts are kept apart: over all words, whatever a place may read."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from family_models import diffusers_network, family_inputs

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.host.context import prompts_of_batch
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer

MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()
PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
SIZE, TOKENS = (10, 14), 77
READS = torch.arange(TOKENS) < 40
REST = (torch.arange(TOKENS) < 20) | (torch.arange(TOKENS) >= 60)
# Two words that everybody reads, one of the region, one of nobody, two of the rest.
GROUPS = [[3, 4], [30], [50], [66, 70]]
MASK = torch.zeros(1, *SIZE)
MASK[..., :4], MASK[..., 4:7] = 1, 0.3


@pytest.fixture(scope="module")
def unet():
    return diffusers_network("sd")


def attention_expert(unet):
    generator = torch.Generator().manual_seed(1)
    layer = unet.get_submodule(f"{PATH}.to_k")
    down = torch.randn(2, layer.in_features, generator=generator) / 4
    return Expert("a", {f"{PATH}.to_k": LoraLayer(down, torch.randn(layer.out_features, 2, generator=generator))})


def resolved(unet, expert, x, text, quantity):
    """`[B,G,h,w]` by the definitions, the region's keys inside the mask and the network's outside."""
    attention, update = unet.get_submodule(PATH), expert.layers[f"{PATH}.to_k"]
    q = attention.to_q(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    total = 0
    for share, added in ((MASK, text @ update.down.T @ update.up.T), (1 - MASK, 0)):
        k = (attention.to_k(text) + added).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        logits, maps = q @ k.transpose(-1, -2) * attention.scale, []
        for group in GROUPS:
            inside = torch.zeros(TOKENS, dtype=torch.bool)
            inside[group] = True
            if quantity == "share":
                maps.append(logits.softmax(-1)[..., inside].sum(-1).mean(1))
            else:
                odds = logits[..., inside].logsumexp(-1) - logits[..., ~inside].logsumexp(-1)
                maps.append(odds.mean(1) - torch.log(inside.sum() / (~inside).sum()))
        total = total + share * torch.stack(maps, 1).unflatten(-1, SIZE)
    return total


@pytest.mark.parametrize("quantity", ["logodds", "share"])
@pytest.mark.parametrize("positive", [(True,), (True, False)])
def test_maps_of_a_unet_are_over_all_words(unet, quantity, positive):
    """Also where the batch holds another prompt, whose rows are read apart from the positive one's."""
    expert, (latent, text, _) = attention_expert(unet), family_inputs("sd")
    gates, seen = Gates({"a": RegionGate(MASK, visible_tokens=READS)}, rest_visible_tokens=REST), []
    hook = unet.get_submodule(PATH).register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    with torch.no_grad(), ExpertStack(unet, [expert]) as stack, stack.using(gates), prompts_of_batch(positive):
        untapped = unet(latent, 300, encoder_hidden_states=text).sample
        with AttentionTap(unet, GROUPS, quantity=quantity) as tap:
            tapped = unet(latent, 300, encoder_hidden_states=text).sample
    hook.remove()
    with torch.no_grad():
        expected = resolved(unet, expert, seen[-1], text, quantity)
    torch.testing.assert_close(tap.maps[PATH], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tapped, untapped, rtol=0, atol=1e-5)


def test_a_group_given_as_table_is_not_shifted(unet):
    """Columns of the table are places in the whole prompt, also in a pass that reads some of them."""
    table = torch.zeros(len(GROUPS), TOKENS, dtype=torch.bool)
    for row, group in zip(table, GROUPS, strict=True):
        row[group] = True
    latent, text, _ = family_inputs("sd")
    gates, maps = Gates({"a": RegionGate(MASK, visible_tokens=READS)}, rest_visible_tokens=REST), []
    for groups in (GROUPS, table):
        tap, stack = (
            AttentionTap(unet, groups, quantity="share", layers=[PATH]),
            ExpertStack(unet, [attention_expert(unet)]),
        )
        with torch.no_grad(), stack, stack.using(gates), tap:
            unet(latent, 300, encoder_hidden_states=text)
        maps.append(tap.maps[PATH])
    assert torch.equal(*maps)


@pytest.mark.parametrize("first", ["experts", "tap"])
def test_maps_of_flux_are_over_all_words(first):
    """At the first attention, whose queries and keys do not depend on what was hidden before."""
    network = diffusers_network("flux")
    path, (text, pooled) = "transformer_blocks.0.attn", family_inputs("flux")[1:]
    layer = network.get_submodule(f"{path}.to_v")
    expert = Expert("a", {f"{path}.to_v": LoraLayer(torch.randn(2, layer.in_features), torch.randn(64, 2))})
    ids = torch.zeros(24, 3)
    ids[:, 1], ids[:, 2] = torch.arange(24) // 6, torch.arange(24) % 6
    mask, reads = torch.zeros(1, 4, 6), torch.arange(20) < 12
    mask[..., :3] = 1

    def maps(gates):
        stack = ExpertStack(network, [expert])
        tap = AttentionTap(network, [[2, 3], [15]], layers=[path])
        with ExitStack() as both, torch.no_grad():
            for part in (stack, tap) if first == "experts" else (tap, stack):
                both.enter_context(part)
            stack.set(gates)
            x = torch.randn(2, 24, 64, generator=torch.Generator().manual_seed(1))
            network(x, text, pooled, torch.full((2,), 0.4), ids, torch.zeros(20, 3), torch.full((2,), 3.5))
        return tap.maps[path]

    torch.testing.assert_close(maps(Gates({"a": RegionGate(mask, visible_tokens=reads)})), maps(Gates({"a": mask})))


COMFY = """
from contextlib import ExitStack
from regionstyle.nodes.engine.families.registry import family_of
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate

def difference(family, tap_first):
    model = comfy_model(family)
    network = model.model.diffusion_model
    layers = [path for path in family_of(network).layer_slices(network) if path.endswith((".attn2.to_v", ".attn.to_v"))]
    path = layers[0]
    place = family_of(network).layer_slices(network)[path]
    layer = network.get_submodule(place.module)
    rows = len(range(layer.out_features)[place.rows or slice(None)])
    expert = Expert("a", {path: LoraLayer(noise(2, layer.in_features) / 8, noise(rows, 2) / 8)})
    length, channels = COMFY_SHAPES[family][0], COMFY_SHAPES[family][3]
    mask = torch.zeros(1, 8, 12)
    mask[..., :6] = 1

    def maps(gates):
        predictor = ComfyPredictor(attach_to_comfy(model, [expert], gates), None, None, ComfyHost())
        text = predictor.from_conditioning(family_conditioning(family))
        home = path.removesuffix(".to_v")
        tap = AttentionTap(predictor, [[2, 3], [15]], layers=[home])
        with ExitStack() as both:
            for part in ((lambda: tap, predictor.loaded) if tap_first else (predictor.loaded, lambda: tap)):
                both.enter_context(part())
            predictor.predict(noise(1, channels, 8, 12), 0.5, text)
        return tap.maps[home]

    reads = torch.arange(length) < 12
    return far(maps(Gates({"a": RegionGate(mask, visible_tokens=reads)})), maps(Gates({"a": mask})))

with torch.inference_mode():
    print(json.dumps({f: [difference(f, True), difference(f, False)] for f in ("sd", "sd3", "sd35", "flux")}))
"""


def check_comfy(result):
    assert set(result) == {"sd", "sd3", "sd35", "flux"}
    assert max(max(both) for both in result.values()) < 1e-5


@pytest.mark.slow
def test_maps_in_comfy_are_over_all_words(run_in_comfy):
    """At the first layer, whatever was attached first."""
    check_comfy(run_in_comfy(MODELS + COMFY))


@pytest.mark.slow
def test_maps_in_the_oldest_comfy_are_over_all_words(run_in_old_comfy):
    check_comfy(run_in_old_comfy(MODELS + COMFY))
