"""Experts on every family of diffusers networks: SDXL, SD3, FLUX.1. Oracles: merged weights, and the rule by hand."""

import copy

import pytest
import torch
from torch import nn

from regionstyle.nodes.engine.adapters.active_gates import ActiveGates
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.families.registry import denoiser_of, family_of
from regionstyle.nodes.engine.families.token_layout import TokenLayout
from regionstyle.nodes.engine.host.context import prompts_of_batch
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.predictor.base import NoisePredictor, Prediction, Text

GRID, TEXT, BATCH = (4, 6), 5, 2


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class FluxCase:
    """A FLUX.1 transformer; `context` adds the tokens of a second picture."""

    layer = "transformer_blocks.0.attn.to_q"

    def network(self):
        from diffusers import FluxTransformer2DModel

        return FluxTransformer2DModel(
            in_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=12, pooled_projection_dim=10, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
        )  # fmt: skip

    def run(self, network, context=()):
        ids = [picture_ids(at, grid) for at, grid in enumerate((GRID, *context))]
        tokens = sum(len(i) for i in ids)
        return network(
            random(BATCH, tokens, 8, seed=1), random(BATCH, TEXT, 12, seed=2), random(BATCH, 10, seed=3),
            torch.full((BATCH,), 0.4), torch.cat(ids), torch.zeros(TEXT, 3), torch.full((BATCH,), 3.5),
        ).sample  # fmt: skip


class SD3Case:
    layer = "transformer_blocks.0.attn.to_q"

    def network(self):
        from diffusers import SD3Transformer2DModel

        return SD3Transformer2DModel(
            sample_size=16, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            caption_projection_dim=32, joint_attention_dim=12, pooled_projection_dim=10, pos_embed_max_size=8,
            dual_attention_layers=(0,),
        )  # fmt: skip

    def run(self, network):
        latent = random(BATCH, 4, 2 * GRID[0], 2 * GRID[1], seed=1)
        text, pooled = random(BATCH, TEXT, 12, seed=2), random(BATCH, 10, seed=3)
        return network(latent, text, pooled, torch.full((BATCH,), 400.0)).sample


class SDXLCase:
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"

    def network(self):
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
            attention_head_dim=(2, 4), cross_attention_dim=12, use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=10 + 6 * 8,
        )  # fmt: skip

    def run(self, network):
        extra = {"text_embeds": random(BATCH, 10, seed=3), "time_ids": torch.full((BATCH, 6), 8.0)}
        latent, text = random(BATCH, 4, 2 * GRID[0], 2 * GRID[1], seed=1), random(BATCH, TEXT, 12, seed=2)
        return network(latent, 300, text, added_cond_kwargs=extra).sample


def picture_ids(number, grid):
    rows, columns = torch.meshgrid(*(torch.arange(float(n)) for n in grid), indexing="ij")
    return torch.stack([torch.full_like(rows, number), rows, columns], -1).flatten(0, 1)


class Loaded:
    """A case with its network and an expert for every Linear and Conv2d in it."""

    def __init__(self, case):
        self.case = case
        torch.manual_seed(0)
        self.network = case.network().eval().requires_grad_(False)
        for name, parameter in self.network.named_parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.copy_(random(*parameter.shape, seed=len(name)) * 0.1)
        self.base = self.run()

    def run(self, network=None, **options):
        with torch.no_grad():
            return self.case.run(network or self.network, **options)

    def expert(self, name="sketch", keep=lambda path: True, rank=3, seed=1):
        layers = {}
        for path, module in self.network.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and keep(path):
                shape = module.weight.shape
                down = random(rank, *shape[1:], seed=seed + len(layers)) / shape[1] ** 0.5
                up = random(shape[0], rank, *[1] * (len(shape) - 2), seed=seed + 500 + len(layers)) * 0.2
                layers[path] = LoraLayer(down, up, 0.5)
        return Expert(name, layers)

    def merged(self, *experts):
        network = copy.deepcopy(self.network)
        for expert in experts:
            for path, layer in expert.layers.items():
                weight = network.get_submodule(path).weight
                weight.data += layer.scale * (layer.up.flatten(1) @ layer.down.flatten(1)).reshape(weight.shape)
        return network

    def output_of(self, path, stack, gates, **options):
        """Output and input of one layer."""
        seen = {}
        module = self.network.get_submodule(path)
        handle = module.register_forward_hook(lambda m, args, out: seen.update(x=args[0], y=out))
        try:
            with stack, stack.using(gates):
                self.run(**options)
        finally:
            handle.remove()
        return seen["y"], seen["x"]


@pytest.fixture(scope="module", params=[FluxCase, SD3Case, SDXLCase], ids=["flux", "sd3", "sdxl"])
def loaded(request):
    return Loaded(request.param())


@pytest.fixture(scope="module")
def flux():
    return Loaded(FluxCase())


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


def some_mask(seed=4, share=1.0):
    return torch.rand(1, 8, 12, generator=torch.Generator().manual_seed(seed)) * share


# --- every family ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", [1.0, torch.ones(BATCH), torch.ones(1, 8, 12)], ids=["number", "samples", "mask"])
def test_gate_one_everywhere_is_the_merged_network(loaded, gate):
    expert = loaded.expert()
    merged = loaded.run(loaded.merged(expert))
    assert relative(merged, loaded.base) > 0.05
    with ExpertStack(loaded.network, [expert]) as stack:
        stack.set(Gates({"sketch": gate}))
        assert relative(loaded.run(), merged) < 1e-5


def test_off_and_detached_are_bit_equal(loaded):
    before = {name: module.__dict__.get("forward") for name, module in loaded.network.named_modules()}
    stack = ExpertStack(loaded.network, [loaded.expert()])
    with stack:
        assert torch.equal(loaded.run(), loaded.base)
        for gate in (0.0, torch.zeros(1, 4, 4), RegionGate(torch.ones(4, 4), 0.0)):
            stack.set(Gates({"sketch": gate}))
            assert torch.equal(loaded.run(), loaded.base)
        stack.set(Gates({"sketch": some_mask()}))
        assert not torch.equal(loaded.run(), loaded.base)
    assert torch.equal(loaded.run(), loaded.base)
    assert {name: module.__dict__.get("forward") for name, module in loaded.network.named_modules()} == before


def test_an_image_with_an_empty_mask_is_the_base_and_its_neighbour_is_not(loaded):
    gate = torch.stack([torch.zeros(8, 12), torch.ones(8, 12)])
    expert = loaded.expert()
    with ExpertStack(loaded.network, [expert]) as stack:
        stack.set(Gates({"sketch": gate}))
        out = loaded.run()
    assert relative(out[0], loaded.base[0]) < 1e-6
    assert relative(out[1], loaded.run(loaded.merged(expert))[1]) < 1e-5


def test_experts_of_unequal_rank_add_up(loaded):
    one, two = loaded.expert(), loaded.expert("oil", rank=5, seed=77)
    with ExpertStack(loaded.network, [one, two]) as stack:
        stack.set(Gates({"sketch": 1.0, "oil": 1.0}))
        assert relative(loaded.run(), loaded.run(loaded.merged(one, two))) < 1e-5


def test_a_region_changes_image_tokens_in_the_region_only(loaded):
    path = loaded.case.layer
    expert = loaded.expert(keep=lambda p: p == path)
    mask = torch.zeros(1, 8, 12)
    mask[:, :4, :6] = 1
    out, x = loaded.output_of(path, ExpertStack(loaded.network, [expert]), Gates({"sketch": mask}))
    changed = (out != loaded.network.get_submodule(path)(x)).any(-1).reshape(BATCH, *GRID)
    assert torch.equal(changed[0], torch.nn.functional.avg_pool2d(mask, 2)[0] > 0)


# --- joint attention ---------------------------------------------------------------------------------------------


def words(*marked, length=TEXT):
    return torch.tensor([at in marked for at in range(length)])


RULE = [  # words of each expert, option -> gates of the first expert on the five text tokens
    ((None, None), "share", [0.5, 0.5, 0.5, 0.5, 0.5]),
    ((None, None), "off", [0, 0, 0, 0, 0]),
    ((words(1), words(3, length=4)), "share", [0.5, 1, 0.5, 0, 0.5]),
    ((words(1), words(3)), "off", [0, 1, 0, 0, 0]),
    ((words(1, 2), words(2, 3)), "share", [0.5, 1, 1, 0, 0.5]),
]


@pytest.mark.parametrize(("owned", "option", "expected"), RULE)
@pytest.mark.parametrize("path", ["transformer_blocks.0.attn.add_k_proj", "single_transformer_blocks.0.attn.to_v"])
def test_text_rows_follow_the_rule_and_image_rows_the_mask(flux, path, owned, option, expected):
    one, two = flux.expert(keep=lambda p: p == path), flux.expert("oil", lambda p: p == "x_embedder")
    masks = some_mask(share=0.5), some_mask(5, share=0.5)
    regions = {n: RegionGate(m, 1.5, w) for n, m, w in zip(("sketch", "oil"), masks, owned, strict=True)}
    stack = ExpertStack(flux.network, [one, two])
    found, x = flux.output_of(path, stack, Gates(regions, shared_text=option))
    image = torch.nn.functional.avg_pool2d(masks[0], 2).flatten()
    gate = torch.cat([torch.tensor(expected), image]) if "single" in path else torch.tensor(expected)
    layer = one.layers[path]
    added = 1.5 * gate[:, None] * (x @ layer.down.T @ layer.up.T) * layer.scale
    torch.testing.assert_close(found, flux.network.get_submodule(path)(x) + added, rtol=0, atol=1e-5)


def test_words_count_in_the_positive_prompt_only():
    gate = RegionGate(torch.ones(1, 4, 4), 1.0, words(0))
    gates = ActiveGates(Gates({"a": gate, "b": RegionGate(torch.ones(1, 4, 4), 1.0, words(1))}), ["a", "b"])
    with prompts_of_batch([False, True]):
        found = gates.of_text_tokens("a", 6, 4, torch.device("cpu"))
    assert found[:, :3].tolist() == [[0.5, 0.5, 0.5]] * 2 + [[1, 0, 0.5]] * 2
    # A negative prompt may be shorter than the positive one.
    with prompts_of_batch([False]):
        assert gates.of_text_tokens("a", 3, 2, torch.device("cpu")).tolist() == [[0.5] * 3] * 2
    assert gates.of_text_tokens("a", 5, 1, torch.device("cpu")).tolist() == [[1, 0, 0.5, 0.5, 0.5]]


def test_an_expert_without_a_place_on_an_image_takes_no_share_of_its_text():
    masks = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])
    gates = ActiveGates(Gates({"a": torch.ones(1, 4, 4), "b": masks}), ["a", "b"])
    assert gates.of_text_tokens("a", 1, 2, torch.device("cpu")).tolist() == [[1], [0.5]]
    assert gates.of_text_tokens("b", 1, 2, torch.device("cpu")).tolist() == [[0], [0.5]]


@pytest.mark.parametrize("path", ["x_embedder", "single_transformer_blocks.0.proj_out", "proj_out"])
def test_context_pictures_have_their_own_grid_of_the_mask(flux, path):
    expert, mask, context = flux.expert(keep=lambda p: p == path), some_mask(), ((2, 3),)
    stack = ExpertStack(flux.network, [expert])
    found, x = flux.output_of(path, stack, Gates({"sketch": mask}), context=context)
    tokens = [torch.nn.functional.avg_pool2d(mask, k).flatten() for k in (2, 4)]
    gate = torch.cat(([torch.ones(TEXT)] if "single" in path else []) + tokens)
    layer = expert.layers[path]
    added = gate[:, None] * (x @ layer.down.T @ layer.up.T) * layer.scale
    torch.testing.assert_close(found, flux.network.get_submodule(path)(x) + added, rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", ["time_text_embed.guidance_embedder.linear_2", "transformer_blocks.0.norm1.linear"])
@pytest.mark.parametrize(("pooled", "share"), [("mean", 0.25), ("off", 0.0)])
def test_layers_without_tokens_take_the_average_or_nothing(flux, path, pooled, share):
    expert = flux.expert(keep=lambda p: p == path)
    mask = torch.zeros(1, 4, 6)
    mask[:, :2, :3] = 1
    found, x = flux.output_of(path, ExpertStack(flux.network, [expert]), Gates({"sketch": mask}, pooled=pooled))
    layer = expert.layers[path]
    added = share * (x @ layer.down.T @ layer.up.T) * layer.scale
    torch.testing.assert_close(found, flux.network.get_submodule(path)(x) + added, rtol=0, atol=1e-5)


def test_gradients_reach_experts_and_latent_through_fused_experts(flux):
    stack = ExpertStack(flux.network, [flux.expert()])
    parameters = [p.requires_grad_() for p in stack.parameters()]
    latent = random(1, 24, 8).requires_grad_()
    extra = (random(1, TEXT, 12), random(1, 10), torch.tensor([0.4]), picture_ids(0, GRID), torch.zeros(TEXT, 3))
    with stack, stack.using(Gates({"sketch": some_mask()})):
        out = flux.network(latent, *extra, torch.tensor([3.5])).sample
    gradients = torch.autograd.grad(out.square().mean(), [latent, *parameters], allow_unused=True)
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["single_transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_q"])
def test_tokens_that_a_patch_adds_are_an_error_with_a_mask_only(flux, path):
    stack = ExpertStack(flux.network, [flux.expert(keep=lambda p: p == path)])
    module = flux.network.get_submodule(path)
    longer = torch.zeros(BATCH, 40, 32)
    with stack:
        flux.run()
        assert module(longer).shape == (BATCH, 40, 32)
        handle = module.register_forward_pre_hook(lambda m, args: (longer,))
        with stack.using(Gates({"sketch": some_mask()})), pytest.raises(RegionStyleError, match="4x6"):
            flux.run()
        handle.remove()


def test_words_longer_than_the_text_and_of_another_type_are_errors(flux):
    stack = ExpertStack(flux.network, [flux.expert(keep=lambda p: p == "context_embedder")])
    for marked, match in ((words(1, length=9), "at most 5"), (torch.ones(5), "bool"), (words(1)[None, None], "bool")):
        gate = RegionGate(some_mask(), 1.0, marked)
        with stack, pytest.raises(RegionStyleError, match=match), stack.using(Gates({"sketch": gate})):
            flux.run()
    with pytest.raises(RegionStyleError, match="shared_text"):
        ActiveGates(Gates(shared_text="half"), [])


def test_networks_of_other_families_and_fused_ones_are_refused(flux):
    with pytest.raises(RegionStyleError, match=r"(?s)Linear.*SD3.*FLUX\.1"):
        ExpertStack(nn.Linear(2, 2), [flux.expert()])
    network = copy.deepcopy(flux.network)
    network.fuse_qkv_projections()
    with pytest.raises(RegionStyleError, match="unfuse_qkv_projections"):
        ExpertStack(network, [flux.expert()])


def test_networks_for_video_are_refused(flux):
    """Their U-Nets are built like those of pictures, but have layers whose rows are frames."""
    from diffusers import UNet3DConditionModel, UNetMotionModel

    for cls, kind, heads in (
        (UNet3DConditionModel, "3D", {"attention_head_dim": 2}),
        (UNetMotionModel, "Motion", {"num_attention_heads": 2}),
    ):
        network = cls(
            sample_size=16, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=16, norm_num_groups=16,
            down_block_types=(f"CrossAttnDownBlock{kind}", f"DownBlock{kind}"),
            up_block_types=(f"UpBlock{kind}", f"CrossAttnUpBlock{kind}"), **heads,
        )  # fmt: skip
        with pytest.raises(RegionStyleError, match=f"network: got {cls.__name__}, of another family"):
            ExpertStack(network, [flux.expert()])
        with pytest.raises(RegionStyleError, match=f"unet: got {cls.__name__}, of another family"):
            denoiser_of(network, None)


def test_position_ids_must_be_whole_pictures(flux):
    family = family_of(flux.network)
    arguments = {"hidden_states": None, "encoder_hidden_states": torch.zeros(1, 7, 2)}
    ids = torch.cat([picture_ids(0, (4, 6)), picture_ids(1, (3, 2))])
    assert family.token_layout(flux.network, {**arguments, "img_ids": ids}) == TokenLayout(((4, 6), (3, 2)), 7)
    assert family.token_layout(flux.network, {**arguments, "img_ids": ids[None]}) == TokenLayout(((4, 6), (3, 2)), 7)
    with pytest.raises(RegionStyleError, match="img_ids"):
        family.token_layout(flux.network, {**arguments, "img_ids": ids[1:]})


def test_a_predictor_says_which_half_of_its_batch_is_the_positive_prompt():
    gates = ActiveGates(Gates({"a": RegionGate(torch.ones(1, 4, 4), 1.0, words(0))}, shared_text="off"), ["a"])
    seen = []

    class Recorder(NoisePredictor):
        alpha_sigma = encode = decode = encode_text = None

        def predict(self, x, t, text, gate=None):
            seen.append(gates.of_text_tokens("a", TEXT, len(x), torch.device("cpu")))
            return Prediction(x, x)

    text = Text(torch.zeros(1, TEXT, 4), None, [[0] * TEXT], [[""] * TEXT], torch.ones(1, TEXT, dtype=torch.bool))
    Recorder.__abstractmethods__ = frozenset()
    Recorder.predict_pair(object.__new__(Recorder), torch.zeros(2, 4, 8, 8), 0.5, text, text)
    assert seen[0].tolist() == [[1, 0, 0, 0, 0]] * 2 + [[0] * 5] * 2
