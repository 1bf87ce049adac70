"""LoHa and LoKr layers have the effect of their definitions, by which LyCORIS and ComfyUI merge them into weights."""

import pytest
import torch
from lora_layouts import LAYOUTS, same
from torch import nn

from regionstyle.nodes.engine.adapters.updates import new_update
from regionstyle.nodes.engine.adapters.weights import LoraWeights
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.families.layers import LayerSlice
from regionstyle.nodes.engine.lora import lycoris
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.lora.lycoris import as_lora

PATH = "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k"
KEY = "lora_unet_" + PATH.replace(".", "_")
OUT, IN = 12, 20


def rand(*shape, seed=[0]):  # noqa: B006
    seed[0] += 1
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed[0]))


def loha(rank, inputs=IN):
    return {"hada_w1_a": rand(OUT, rank), "hada_w1_b": rand(rank, inputs), "hada_w2_a": rand(OUT, rank),
            "hada_w2_b": rand(rank, inputs)}  # fmt: skip


def loha_delta(f):
    return (f["hada_w1_a"] @ f["hada_w1_b"]) * (f["hada_w2_a"] @ f["hada_w2_b"])


def lokr_delta(f):
    w1 = f["lokr_w1"] if "lokr_w1" in f else f["lokr_w1_a"] @ f["lokr_w1_b"]
    w2 = f["lokr_w2"] if "lokr_w2" in f else f["lokr_w2_a"] @ f["lokr_w2_b"]
    return torch.kron(w1, w2)


LOKR = {
    "both whole": {"lokr_w1": (3, 4), "lokr_w2": (4, 5)},
    "second low": {"lokr_w1": (3, 4), "lokr_w2_a": (4, 1), "lokr_w2_b": (1, 5)},
    "first wide": {"lokr_w1": (2, 4), "lokr_w2_a": (6, 1), "lokr_w2_b": (1, 5)},
    "first tall": {"lokr_w1": (4, 2), "lokr_w2_a": (3, 1), "lokr_w2_b": (1, 10)},
    "both low": {"lokr_w1_a": (3, 2), "lokr_w1_b": (2, 4), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 5)},
    "first low": {"lokr_w1_a": (3, 2), "lokr_w1_b": (2, 4), "lokr_w2": (4, 5)},
}


def expert_of(factors, alpha=None):
    named = {f"{KEY}.{role}": tensor for role, tensor in factors.items()}
    return load_expert({**named, **({f"{KEY}.alpha": torch.tensor(alpha)} if alpha else {})}, name="x")


def check(expert, delta, scale):
    (path,) = expert.layers
    layer = expert.layers[path]
    assert path == PATH
    made = layer.scale * layer.up.flatten(1) @ layer.down.flatten(1)
    torch.testing.assert_close(made, scale * delta.flatten(1), rtol=1e-5, atol=1e-5)
    return layer


@pytest.mark.parametrize(("rank", "made"), [(1, 1), (3, 9), (4, 12), (8, 12)])
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_loha(rank, made, alpha):
    factors = loha(rank)
    layer = check(expert_of(factors, alpha), loha_delta(factors), alpha / rank if alpha else 1.0)
    assert layer.rank == made


@pytest.mark.parametrize("kind", LOKR)
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_lokr(kind, alpha):
    factors = {role: rand(*shape) for role, shape in LOKR[kind].items()}
    rank = next((len(factors[role]) for role in ("lokr_w2_b", "lokr_w1_b") if role in factors), None)
    layer = check(expert_of(factors, alpha), lokr_delta(factors), alpha / rank if alpha and rank else 1.0)
    assert layer.rank <= OUT
    if kind in ("second low", "first wide", "first tall"):
        assert layer.rank < OUT


def test_kernels_of_convolutions():
    """LoHa flattens them, LoKr may hold them, Tucker cores hold the places; all are those of the layer."""
    flat = loha(2, IN * 9)
    core = {"hada_w1_a": rand(2, OUT), "hada_w1_b": rand(2, IN), "hada_w2_a": rand(2, OUT), "hada_w2_b": rand(2, IN),
            "hada_t1": rand(2, 2, 3, 3), "hada_t2": rand(2, 2, 3, 3)}  # fmt: skip
    kron = {"lokr_w1": rand(3, 4), "lokr_w2": rand(4, 5, 3, 3)}
    rebuilt = [
        torch.einsum("ijkl,jr,ip->prkl", core[f"hada_t{n}"], core[f"hada_w{n}_b"], core[f"hada_w{n}_a"]) for n in (1, 2)
    ]
    whole = torch.stack([
        torch.kron(kron["lokr_w1"], kron["lokr_w2"][..., y, x]) for y in range(3) for x in range(3)
    ], -1).unflatten(-1, (3, 3))  # fmt: skip
    conv, x = nn.Conv2d(IN, OUT, 3, padding=1), rand(2, IN, 6, 6)
    for factors, kernel in (
        (flat, loha_delta(flat).reshape(OUT, IN, 3, 3)),
        (core, rebuilt[0] * rebuilt[1]),
        (kron, whole),
    ):
        (layer,) = expert_of(factors).layers.values()
        update = new_update("x", PATH, LoraWeights(layer), LayerSlice("conv", PATH), conv)
        made = nn.functional.conv2d(x, update.weights.down, padding=1)
        made = nn.functional.conv2d(made, update.up()) * update.weights.scale
        torch.testing.assert_close(made, nn.functional.conv2d(x, kernel, padding=1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"hada_w2_b": None},
        {"hada_w2_b": torch.ones(2, 7)},
        {"hada_w1_a": torch.ones(OUT, 2, dtype=torch.int32)},
        {"hada_w1_a": torch.ones(())},
        {"hada_w1_b": torch.ones(0, IN)},
    ],
)
def test_factors_that_do_not_fit_name_the_layer(change):
    factors = {role: tensor for role, tensor in {**loha(2), **change}.items() if tensor is not None}
    with pytest.raises(RegionStyleError, match=f"LoRA file, {KEY}: got hada_w1_a .*that fit each other"):
        expert_of(factors)


def test_sizes_are_counted_before_anything_is_made():
    """Two vectors of a few kilobytes each would be multiplied out to 400 GB."""
    factors = {"lokr_w1": torch.ones(1, 1).expand(300, 300), "lokr_w2": torch.ones(1, 1).expand(1000, 1000)}
    with pytest.raises(RegionStyleError, match=r"\d{3}\.\d GB once they are multiplied out"):
        expert_of(factors)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none(bad):
    factors = loha(2)
    factors["hada_w1_a"][0, 0] = bad
    with pytest.raises(RegionStyleError, match="NaN or infinity"):
        expert_of(factors)


def test_a_plain_lora_stays_what_it_is():
    assert as_lora(LAYOUTS["kohya"]) is LAYOUTS["kohya"]
    other = {f"lora_unet_mid_block_attentions_0_proj_in.{role}": tensor for role, tensor in loha(2).items()}
    mixed = load_expert({**LAYOUTS["kohya"], **other}, name="x")
    assert len(mixed.layers) == len(load_expert(LAYOUTS["kohya"], name="x").layers) + 1
    assert lycoris.LARGEST * 4 == 4 * 2**30


def test_bundled_embeddings_and_norms_are_left_out_and_said(caplog):
    extra = {
        "bundle_emb.mystyle.clip_l": torch.ones(2, 8),
        "lora_unet_down_blocks_0_resnets_0_norm1.w_norm": torch.ones(4),
        "lora_unet_down_blocks_0_resnets_0_norm1.b_norm": torch.ones(4),
    }
    expert = load_expert({**LAYOUTS["kohya"], **extra}, name="x")
    same(expert)
    assert expert.unused == tuple(extra)
    assert "3 keys of its file (bundle_emb.mystyle.clip_l, ...)" in caplog.text
