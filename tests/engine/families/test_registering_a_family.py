"""A family of a test's own: what is said once, in one object, is enough for experts, tap, predictor and sentences."""

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.adapters.isolation import check_isolable
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.families import registry, support
from regionstyle.nodes.engine.families.base import DIFFUSERS, FolderLayout, ModelFamily
from regionstyle.nodes.engine.families.denoiser import FlowDenoiser
from regionstyle.nodes.engine.families.dotted_names import dotted, name_pattern
from regionstyle.nodes.engine.families.layers import LayerSlice
from regionstyle.nodes.engine.families.token_layout import TokenLayout, latent_size, patched
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.lora.save import save_expert
from regionstyle.nodes.engine.predictor.base import Extras, Text
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor

WIDTH, HEADS, TEXT, GRID = 16, 2, 5, (3, 4)


class ToyAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = HEADS
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])

    def forward(self, hidden_states, encoder_hidden_states):
        q, k, v = self.to_q(hidden_states), self.to_k(encoder_hidden_states), self.to_v(encoder_hidden_states)
        q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ToyLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn2, self.ff = ToyAttention(), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, words):
        return x + self.attn2(x, encoder_hidden_states=words) + self.ff(x).tanh()


class ToyTransformer(nn.Module):
    """Cross-attention and feed-forward over patches of 2x2 latent pixels; no image token sees another."""

    dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(in_channels=4, sample_size=16)
        self.patch_in, self.patch_out = nn.Linear(16, WIDTH), nn.Linear(WIDTH, 16)
        self.layers = nn.ModuleList(ToyLayer() for _ in range(2))

    def forward(self, latent, level, words):
        rows, columns = latent.shape[-2] // 2, latent.shape[-1] // 2
        x = self.patch_in(F.pixel_unshuffle(latent, 2).flatten(2).transpose(1, 2)) + level[:, None, None]
        for layer in self.layers:
            x = layer(x, words)
        return F.pixel_shuffle(self.patch_out(x).transpose(1, 2).unflatten(2, (rows, columns)), 2)


class ToyFamily(ModelFamily):
    """All that the pack must be told of it."""

    name, versions = "TOY", ("Toy 1", "Toy 2")
    diffusers_class, comfy_class = "ToyTransformer", "ToyNet"
    comfy_models, comfy_sizes, comfy_text = ("ToyModel",), {"ToyConfig": 640}, {("toy",): ("toy",)}
    predicts, native_size = ("flow",), 256
    folder = FolderLayout("transformer", encoders=1, table=False)
    isolates = (DIFFUSERS,)
    pattern = name_pattern(["layers", "attn2", "to_q", "to_k", "to_v", "to_out", "ff", "patch_in", "patch_out"])

    def accepts(self, network):
        return self.is_diffusers(network)

    def slices_in(self, network):
        return lambda name, module: [LayerSlice(name, name)]

    def token_kind(self, path):
        return "words" if path.endswith((".to_k", ".to_v")) else "image"

    def token_layout(self, network, arguments):
        return TokenLayout((patched(latent_size(arguments["latent"]), 2),))

    def cross_attention_of(self, path):
        match = re.match(r"(layers\.\d+\.attn2)(?:\.|$)", path)
        return match and match[1]

    def denoiser(self, network, scheduler):
        return ToyDenoiser(self, network, scheduler)

    def encode_text(self, encoders, tokenizers, texts):
        states = torch.stack([encoders[0](text) for text in texts])
        rows = len(texts), TEXT
        return Text(states, None, [[0] * TEXT] * len(texts), [["a"] * TEXT] * len(texts), torch.ones(rows).bool())

    def comfy_extras(self, model):
        return ("guidance",)

    def layer_name(self, underscored):
        name = dotted(underscored, self.pattern)
        return name if name and name.split(".")[0] in ("layers", "patch_in", "patch_out") else None

    def file_slices(self, sizes, network):
        return {name: [LayerSlice(name, name)] for name in sizes}


class ToyDenoiser(FlowDenoiser):
    def flow(self, x, level, text):
        return self.network(latent=x, level=level, words=text.states.to(x))


class Vae(nn.Module):
    config = SimpleNamespace(block_out_channels=(1, 2, 3, 4))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder(text):
    return random(TEXT, WIDTH, seed=len(text))


@pytest.fixture
def family():
    toy = ToyFamily()
    registry.register(toy)
    yield toy
    registry.unregister(toy)


@pytest.fixture
def network(family):
    torch.manual_seed(0)
    return ToyTransformer().eval().requires_grad_(False)


@pytest.fixture
def predictor(network):
    return DiffusersPredictor(network, Vae(), encoder, None, None, LocalHost("cpu"))


def run(network):
    latent = random(2, 4, 2 * GRID[0], 2 * GRID[1], seed=1)
    return network(latent=latent, level=torch.full((2,), 0.4), words=random(2, TEXT, WIDTH, seed=2))


def expert_of(network):
    layers = {}
    for path, module in network.named_modules():
        if isinstance(module, nn.Linear):
            outputs, inputs = module.weight.shape
            seed = len(layers)
            layers[path] = LoraLayer(random(2, inputs, seed=seed) / 4, random(outputs, 2, seed=seed + 90) / 4, 0.5)
    return Expert("sketch", layers)


def merged(network, expert):
    network = copy.deepcopy(network)
    for path, lora in expert.layers.items():
        network.get_submodule(path).weight += lora.scale * lora.up @ lora.down
    return network


def test_experts_attach_and_act_inside_their_mask(network):
    expert = expert_of(network)
    plain, styled = run(network), run(merged(network, expert))
    mask = torch.zeros(1, 6, 8)
    mask[:, :, 4:] = 1
    with ExpertStack(network, [expert]) as stack:
        stack.set(Gates({"sketch": 1.0}))
        torch.testing.assert_close(run(network), styled)
        stack.set(Gates({"sketch": mask}))
        inside = run(network)
    torch.testing.assert_close(inside[..., :4], plain[..., :4])
    torch.testing.assert_close(inside[..., 4:], styled[..., 4:])
    assert (plain - styled).abs().amin((0, 1)).max() > 1e-2
    assert torch.equal(run(network), plain)


def test_the_tap_sees_its_attention(predictor, network):
    text, x = predictor.encode_text(["a star", "a moon!"]), random(2, 4, 6, 8, seed=3)
    with AttentionTap(predictor, [[1, 2], [4]], quantity="share") as tap:
        predictor.predict(x, 0.4, text)
    assert list(tap.maps) == ["layers.0.attn2", "layers.1.attn2"]
    attention = network.layers[0].attn2
    level = predictor.alpha_sigma(0.4)[1]
    tokens = network.patch_in(F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)) + level
    q, k = attention.to_q(tokens), attention.to_k(text.states)
    q, k = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (q, k))
    shares = (q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5).softmax(-1).mean(1)
    expected = torch.stack([shares[..., [1, 2]].sum(-1), shares[..., 4]], 1).unflatten(-1, GRID)
    torch.testing.assert_close(tap.maps["layers.0.attn2"], expected)


def test_the_predictor_predicts_with_it(predictor, network):
    assert (predictor.predicts, predictor.latent_channels, predictor.native_size) == ("flow", 4, 128)
    text, x = predictor.encode_text(["a star", "a moon!"]), random(2, 4, 6, 8, seed=3)
    sigma = predictor.alpha_sigma(0.4)[1]
    velocity = network(x, sigma.expand(2), text.states)
    prediction = predictor.predict(x, 0.4, text)
    torch.testing.assert_close(prediction.denoised, x - sigma * velocity)
    torch.testing.assert_close(prediction.eps, x + (1 - sigma) * velocity)
    with pytest.raises(RegionStyleError, match="guidance, expected none"):
        predictor.predict(x, 0.4, replace(text, extras=Extras(guidance=2.0)))


def test_its_lora_files_are_read_and_written(network, tmp_path):
    expert = expert_of(network)
    save_expert(expert, tmp_path / "sketch.safetensors")
    assert set(load_expert(tmp_path / "sketch.safetensors").layers) == set(expert.layers)
    kohya = {"lora_unet_layers_1_attn2_to_q.lora_down.weight": torch.ones(1, WIDTH),
             "lora_unet_layers_1_attn2_to_q.lora_up.weight": torch.ones(WIDTH, 1)}  # fmt: skip
    assert list(load_expert(kohya, name="x").layers) == ["layers.1.attn2.to_q"]


def test_what_comfyui_calls_it_is_known(family):
    model, config = type("ToyModel", (), {})(), type("ToyConfig", (), {})()
    assert registry.comfy_extras_of(model) == ("guidance",)
    assert registry.comfy_native_size(config) == 640
    assert registry.comfy_text_layout(("toy",)) == ("toy",)
    assert registry.family_in_folder({"_class_name": "ToyTransformer"}) is family


SENTENCES = {
    "versions": (support.supported_versions, "Toy 1 and Toy 2"),
    "predictions": (support.supported_predictions, "Toy 2 (flow)"),
    "text encoders": (support.supported_text_encoders, "Toy 1 and Toy 2"),
    "folders": (support.supported_folders, "FLUX or TOY class"),
    "LoRA layers": (support.supported_lora_layers, "Toy 1 or Toy 2"),
    "isolation": (support.supported_isolation, "TOY of diffusers"),
    "experts": (lambda: str(support.supported_table(support.EXPERTS)), "Toy 1, Toy 2"),
    "restyling": (lambda: str(support.supported_table(support.RESTYLING)), "FLUX.1, Toy 1 classes"),
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_sentence_names_it_while_it_is_registered(sentence):
    written, words = SENTENCES[sentence]
    family = ToyFamily()
    assert words not in written()
    registry.register(family)
    try:
        assert words in written()
    finally:
        registry.unregister(family)
    assert words not in written()


def test_refusals_name_it(family):
    refusals = {
        r"Toy 1/Toy 2 \(diffusers ToyTransformer, ComfyUI ToyNet\)": lambda: registry.family_of(nn.Linear(2, 2)),
        "Toy 1 or Toy 2": lambda: load_expert({"mystery.lora_down.weight": torch.ones(1, 2)}, name="x"),
        "TOY of diffusers": lambda: check_isolable(supported=False, network="Linear"),
    }
    for words, refused in refusals.items():
        with pytest.raises(RegionStyleError, match=words):
            refused()


def test_a_family_is_forgotten_and_its_name_is_taken_once(network, family):
    with pytest.raises(RegionStyleError, match="'TOY', expected a name that is not taken"):
        registry.register(ToyFamily())
    assert registry.family_of(network) is family
    registry.unregister(family)
    try:
        with pytest.raises(RegionStyleError, match="ToyTransformer, of another family"):
            ExpertStack(network, [expert_of(network)])
    finally:
        registry.register(family)
