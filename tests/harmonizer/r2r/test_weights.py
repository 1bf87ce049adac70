"""R2R's files: counts of the real networks, every published layout, and what is said of files that do not fit."""

import json
import shutil

import pytest
import torch
from r2r_networks import small_networks

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.harmonizer.r2r import text
from regionstyle.nodes.harmonizer.r2r.architecture import SD, TINY, new_unet
from regionstyle.nodes.harmonizer.r2r.clear_vae import ClearVae
from regionstyle.nodes.harmonizer.r2r.controller import HarmonyController
from regionstyle.nodes.harmonizer.r2r.files import BASE, FOLDERS, _filter_channels, load_part, load_r2r, save_r2r
from regionstyle.nodes.harmonizer.r2r.filter_kernels import kernels, without_kernels
from regionstyle.nodes.harmonizer.r2r.keys import split, to_ldm
from regionstyle.nodes.harmonizer.r2r.weights import architecture_of, check_fit, read_tensors


@pytest.fixture(scope="module")
def networks():
    return small_networks()


@pytest.fixture(scope="module")
def real():
    """The real networks without their numbers: part -> name -> shape only."""
    with torch.device("meta"):
        made = {"vae": ClearVae(), "unet": new_unet(SD), "controller": HarmonyController()}
    return {part: network.state_dict() for part, network in made.items()}


@pytest.fixture
def folder(networks, tmp_path):
    save_r2r(networks, tmp_path / "r2r")
    return tmp_path / "r2r"


def states(networks):
    return {p: n.state_dict() for p, n in zip(("vae", "unet", "controller"), parts(networks), strict=True)}


def parts(networks):
    return networks.vae, networks.unet, networks.controller


def equal(one, other):
    return all(
        a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
        for a, b in zip(states(one).values(), states(other).values(), strict=True)
    )


def test_the_real_networks_have_the_published_counts(real):
    constants = kernels(_filter_channels(SD))
    assert {part: len(state) for part, state in real.items()} == {"vae": 284, "unet": 686, "controller": 364}
    assert len(real["vae"]) + len(constants) == 380
    totals = {part: sum(tensor.numel() for tensor in state.values()) for part, state in real.items()}
    assert totals == {"vae": 85_554_527, "unet": 859_535_364, "controller": 414_340_496}
    assert sum(kernel.numel() for kernel in constants.values()) == 276_480


def test_the_real_names_survive_the_way_to_the_original_layout_and_back(real):
    ldm = to_ldm(real)
    back = split(ldm)
    assert {part: {n: t.shape for n, t in s.items()} for part, s in back.items()} == {
        part: {n: t.shape for n, t in s.items()} for part, s in real.items()
    }
    assert not any(".down_blocks." in name or "mid_block" in name or "controlnet" in name for name in ldm)
    published = {
        "first_stage_model.decoder.up.1.block.0.lora.conv.weight": [256, 512, 1, 1],
        "first_stage_model.decoder.mid.attn_1.q.weight": [512, 512, 1, 1],
        "first_stage_model.encoder.down.2.block.0.nin_shortcut.weight": [512, 256, 1, 1],
        "model.diffusion_model.input_blocks.0.0.weight": [320, 9, 3, 3],
        "model.diffusion_model.output_blocks.8.2.conv.weight": [640, 640, 3, 3],
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": [1280, 768],
        "control_model.input_blocks.0.0.weight": [320, 4, 3, 3],
        "control_model.input_hint_block.14.weight": [320, 256, 3, 3],
        "control_model.zero_convs.11.0.weight": [1280, 1280, 1, 1],
        "control_model.middle_block_out.0.bias": [1280],
        "control_model.PCCAs.1.mlp.0.weight": [1920, 1280],
    }
    assert {name: list(ldm[name].shape) for name in published} == published


def test_real_sizes_are_read_off_the_shapes(real):
    assert architecture_of(real) == SD


def test_constant_kernels_are_the_published_numbers(networks):
    constants = kernels([3])
    s = 0.0010004043579101562
    assert constants["filters.0.Sobel_x"][2, 0].flatten().tolist() == [s * k for k in (1, 0, -1, 2, 0, -2, 1, 0, -1)]
    assert constants["filters.0.Roberts_y"].dtype == torch.float16
    wrong = dict(networks.vae.state_dict()) | kernels(_filter_channels(TINY))
    assert without_kernels(wrong, "x").keys() == networks.vae.state_dict().keys()
    wrong["filters.3.Edge"] = wrong["filters.3.Edge"] * 2
    with pytest.raises(RegionStyleError, match=r"filters\.3\.Edge"):
        without_kernels(wrong, "x.ckpt")


def test_what_is_written_is_read_again(networks, folder):
    loaded = load_r2r(folder)
    assert loaded.architecture == TINY
    assert equal(loaded, networks)
    assert torch.equal(loaded.empty_prompt, networks.empty_prompt)
    from safetensors.torch import load_file

    assert len(load_file(folder / "clear_vae" / "diffusion_pytorch_model.safetensors")) == 380
    assert load_r2r(folder, unet_dtype=torch.bfloat16).unet.dtype == torch.bfloat16


def test_networks_are_ordinary_tensors_that_can_be_trained(folder):
    with torch.inference_mode():
        loaded = load_r2r(folder)
    loaded.unet.requires_grad_(True)
    loaded.unet(torch.randn(1, 9, 8, 8), 1, loaded.empty_prompt).sample.mean().backward()


def test_the_published_repository_as_it_is(networks, folder):
    """Diffusers' folders below another, pickles, and a checkpoint whose controller is untrained beside them."""
    (folder / BASE).mkdir()
    for part in ("unet", "controlnet"):
        shutil.move(folder / part, folder / BASE / part)
        home = folder / BASE / part
        torch.save(load_part_file(home), home / "diffusion_pytorch_model.bin")
        (home / "diffusion_pytorch_model.safetensors").unlink()
    untrained = to_ldm({"controller": {n: t * 0 for n, t in networks.controller.state_dict().items()}})
    torch.save({"state_dict": untrained}, folder / "diff-base.ckpt")
    assert equal(load_r2r(folder), networks)


def load_part_file(home):
    from safetensors.torch import load_file

    return load_file(home / "diffusion_pytorch_model.safetensors")


LEFTOVERS = (
    "betas", "alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "model_ema.decay", "cr_loss.SR_extractor.0.weight",
    "model.diffusion_model.skip_connect.conv.weight", "first_stage_model.decoder.mid_skip_conv.weight",
    "first_stage_model.skip_conv.weight", "logvar",
)  # fmt: skip


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_checkpoint_of_the_original_code(networks, folder, wrapped):
    """All in one, with leftovers; what shapes do not tell of small networks stays in a config.json."""
    ldm = to_ldm(states(networks)) | {name: torch.zeros(2) for name in LEFTOVERS}
    for part in FOLDERS.values():
        shutil.rmtree(folder / part)
    torch.save({"state_dict": ldm, "epoch": 3} if wrapped else ldm, folder / "all.ckpt")
    with pytest.raises(RegionStyleError, match=r"config\.json"):
        load_r2r(folder)
    found = split(torch.load(folder / "all.ckpt", weights_only=True)["state_dict"] if wrapped else ldm)
    assert found.keys() == {"vae", "unet", "controller"}
    for part, state in states(networks).items():
        assert found[part].keys() == state.keys()
        assert all(torch.equal(found[part][name], state[name]) for name in state)


PREFIXES = {"none": "", "lightning": "model.", "first stage": "first_stage_model."}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
@pytest.mark.parametrize("old", [True, False])
def test_a_clear_vae_under_every_prefix_and_with_old_attention_names(networks, prefix, old):
    state = to_ldm({"vae": networks.vae.state_dict()})
    state = {prefix + name.removeprefix("first_stage_model."): tensor for name, tensor in state.items()}
    if old:
        names = {".q.": ".query.", ".k.": ".key.", ".v.": ".value.", ".proj_out.": ".proj_attn."}
        state = {with_old_names(name, names): tensor for name, tensor in state.items()}
    found = split(state)["vae"]
    own = networks.vae.state_dict()
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)


def with_old_names(name, names):
    """diffusers' names of before 2023, with 2-D or 4-D weights."""
    if "attn_1" not in name:
        return name
    for new, old in names.items():
        name = name.replace(new, old)
    return name.replace("mid.attn_1.norm.", "mid_block.attentions.0.group_norm.").replace(
        "mid.attn_1.", "mid_block.attentions.0."
    )


def test_skip_connect_and_lora_are_the_same(networks):
    state = to_ldm({"vae": networks.vae.state_dict()})
    renamed = {name.replace("lora.conv", "skip_connect.conv"): tensor for name, tensor in state.items()}
    assert split(renamed)["vae"].keys() == networks.vae.state_dict().keys()


def test_missing_surplus_and_misshapen_tensors_are_named(real):
    state = dict(real["controller"])
    state["mid_block.resnets.9.x"] = state.pop("PCCAs.0.mlp.0.bias")
    state["conv_in.weight"] = torch.empty(320, 9, 3, 3, device="meta")
    with pytest.raises(RegionStyleError) as error:
        check_fit("controller", real["controller"], state, "controlnet.bin")
    said = str(error.value)
    assert "controlnet.bin with 364 tensors" in said
    assert "lacks PCCAs.0.mlp.0.bias (1 such); has surplus mid_block.resnets.9.x (1 such)" in said
    assert "conv_in.weight [320, 9, 3, 3], not [320, 4, 3, 3] (1 such), expected 364 tensors" in said


def test_a_file_that_lacks_one_tensor_is_refused(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state.pop("conv_out.bias")
    save_file(state, file)
    with pytest.raises(RegionStyleError, match=r"lacks conv_out\.bias \(1 such\).*expected 686"):
        load_r2r(folder)


def test_what_is_not_there_is_named(folder, tmp_path):
    shutil.rmtree(folder / "controlnet")
    with pytest.raises(RegionStyleError, match="without Harmony Controller.*region2region"):
        load_r2r(folder)
    assert load_r2r(folder, controller=False).controller is None
    (folder / "empty_prompt.safetensors").unlink()
    with pytest.raises(RegionStyleError, match="without a text encoder"):
        load_r2r(folder, controller=False)
    with pytest.raises(RegionStyleError, match="does not exist"):
        load_r2r(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"PK not a zip", b"\x80\x04."])
def test_damaged_files_give_one_sentence(folder, content):
    (folder / "clear_vae" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(RegionStyleError, match="weights: got"):
        load_r2r(folder)


def test_code_in_a_pickle_is_never_run(folder, tmp_path):
    import os

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    (folder / "clear_vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"state_dict": Attack()}, folder / "clear_vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(RegionStyleError, match="more than tensors"):
        load_r2r(folder)
    assert not (tmp_path / "attacked").exists()


def test_unknown_names_are_refused(folder):
    torch.save({"state_dict": {"something.else": torch.zeros(1)}}, folder / "x.ckpt")
    shutil.rmtree(folder / "unet")
    with pytest.raises(RegionStyleError, match=r"x\.ckpt with 1 tensors of unknown names \(something\.else\)"):
        load_r2r(folder)


def test_a_plain_autoencoder_is_no_clear_vae_but_training_may_begin_with_it(networks, folder):
    from safetensors.torch import save_file

    plain = {n: t for n, t in networks.vae.state_dict().items() if "skip_connect" not in n and "filters" not in n}
    shutil.rmtree(folder / "clear_vae")
    save_file({n: t.contiguous() for n, t in plain.items()}, folder / "sd_vae.safetensors")
    with pytest.raises(RegionStyleError, match="without Clear-VAE"):
        load_r2r(folder)
    assert load_part("vae", folder / "sd_vae.safetensors")[0].keys() == plain.keys()


@pytest.mark.parametrize("place", ["vae/diffusion_pytorch_model.safetensors", f"{BASE}/vae", "sd_vae.ckpt"])
def test_training_may_begin_with_a_folder_of_stable_diffusions(networks, tmp_path, place):
    from safetensors.torch import save_file

    plain = {n: t.contiguous() for n, t in networks.vae.state_dict().items() if "skip_connect" not in n}
    file = tmp_path / (place if "." in place else f"{place}/diffusion_pytorch_model.safetensors")
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".ckpt":
        torch.save({"state_dict": to_ldm({"vae": plain})}, file)
    else:
        save_file(plain, file)
    if place == "sd_vae.ckpt":
        (tmp_path / "a.ckpt").write_bytes(file.read_bytes())
    state, _ = load_part("vae", tmp_path)
    assert all(torch.equal(state[name], plain[name]) for name in plain if "filters" not in name)


def test_files_beside_a_whole_folder_are_left_alone(networks, folder):
    torch.save({"state_dict": {"something.else": torch.zeros(1)}}, folder / "stray.ckpt")
    (folder / "lora.safetensors").write_bytes(b"no such thing")
    assert equal(load_r2r(folder), networks)
    assert load_part("unet", folder)[0].keys() == networks.unet.state_dict().keys()


@pytest.mark.parametrize("content", [torch.zeros(3), {"state_dict": torch.zeros(3)}, [1, 2]])
def test_a_file_without_names_is_one_sentence(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(RegionStyleError, match=r"weights: got x\.pt with a"):
        read_tensors(tmp_path / "x.pt")


@pytest.fixture
def small_clip(monkeypatch):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 77, "vocab_size": 100, "hidden_act": "quick_gelu",
    }  # fmt: skip
    monkeypatch.setattr(text, "_CLIP_L", config)
    torch.manual_seed(0)
    # the published config's begin and end are not those of the tokenizer
    return CLIPTextModel(CLIPTextConfig(**config, bos_token_id=0, eos_token_id=2)).eval()


@torch.no_grad()
def test_the_empty_prompt_by_the_text_encoders_folder(folder, small_clip):
    (folder / "empty_prompt.safetensors").unlink()
    small_clip.save_pretrained(folder / BASE / "text_encoder")
    ids = torch.tensor([[98] + [99] * 76])
    assert torch.allclose(load_r2r(folder).empty_prompt, small_clip(ids).last_hidden_state, atol=1e-6)


@torch.no_grad()
def test_the_empty_prompt_by_a_checkpoint(folder, small_clip):
    (folder / "empty_prompt.safetensors").unlink()
    state = {name.removeprefix("text_model."): tensor for name, tensor in small_clip.state_dict().items()}
    prefix = "cond_stage_model.transformer.text_model."
    ldm = {prefix + name: t for name, t in state.items()} | {f"{prefix}embeddings.position_ids": torch.arange(77)[None]}
    torch.save(ldm, folder / "text.ckpt")
    ids = torch.tensor([[98] + [99] * 76])
    assert torch.allclose(load_r2r(folder).empty_prompt, small_clip(ids).last_hidden_state, atol=1e-6)
    ldm.pop(f"{prefix}final_layer_norm.bias")
    torch.save(ldm, folder / "text.ckpt")
    with pytest.raises(RegionStyleError, match=r"text encoder.*final_layer_norm\.bias"):
        load_r2r(folder)


def test_a_prompt_of_another_width_is_refused(networks, folder):
    from safetensors.torch import save_file

    save_file({"empty_prompt": torch.zeros(1, 77, 16)}, folder / "empty_prompt.safetensors")
    with pytest.raises(RegionStyleError, match="width 16"):
        load_r2r(folder)
    save_file({"other": torch.zeros(1)}, folder / "empty_prompt.safetensors")
    with pytest.raises(RegionStyleError, match="without it"):
        load_r2r(folder)


def test_configs_are_those_the_original_code_reads(folder):
    config = json.loads((folder / "clear_vae" / "config.json").read_text())
    assert (config["_class_name"], config["use_skip"], config["scaling_factor"]) == (
        "AutoencoderKL_Skip",
        True,
        0.18215,
    )
