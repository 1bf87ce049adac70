"""`stylize --model FOLDER --expert LORA`: folders in diffusers layout, with small random networks of real classes."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from family_text import save_family_folder, save_peft_folder
from PIL import Image
from safetensors.torch import save_file

from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.app.models import folder_settings, load_folder, weights_variant
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.families.flux import Flux
from regionstyle.nodes.engine.host.base import LocalHost

FAMILIES = ["sd", "sdxl", "sd3", "flux"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`folders("sdxl")`: that family's folder, made once."""
    made = {}

    def of(family):
        if family not in made:
            made[family] = save_family_folder(family, tmp_path_factory.mktemp(family))
        return made[family]

    return of


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (150, 211, 3), dtype=np.uint8)).save(path)
    return path


def network_of(folder):
    return next(folder / part for part in ("unet", "transformer") if (folder / part).is_dir())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_with_a_peft_expert(family, folders, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(Flux, "native_size", 128)  # FLUX names no size of its own
    folder = folders(family)
    expert = save_peft_folder(network_of(folder), tmp_path / "style")
    words = ["stylize", str(photo), "turn it into a mosaic", "--box", "20,30,90,110", "--steps", "2", "--device", "cpu"]
    made = {}
    for name, more in (("plain", []), ("styled", ["--expert", str(expert)])):
        out = tmp_path / f"{name}.png"
        assert main([*words, "-o", str(out), "--model", str(folder), *more]) == 0
        made[name] = np.asarray(Image.open(out))
    before = np.asarray(Image.open(photo))
    assert (made["plain"] != made["styled"]).any(), "the expert had no effect"
    for after in made.values():
        assert (after != before).any()
        assert (after[:, 110:] == before[:, 110:]).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_by_sms(family, folders, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Flux, "native_size", 128)
    folder, out = folders(family), tmp_path / "o.png"
    words = ["stylize", str(photo), "turn it into a mosaic", "--box", "20,30,90,110", "--method", "sms", "-o", str(out)]
    command = [*words, "--device", "cpu", "--model", str(folder), "--sms-iterations", "2"]
    assert main(command) == 2
    assert "--expert: got nothing" in capsys.readouterr().err
    assert main([*command, "--expert", str(save_peft_folder(network_of(folder), tmp_path / "style"))]) == 0
    changed = (np.asarray(Image.open(out)) != np.asarray(Image.open(photo))).any(-1)
    assert changed[30:110, 20:90].mean() > 0.5
    changed[26:114, 16:94] = False
    assert not changed.any()


@pytest.mark.slow
def test_settings_fit_the_family(folders):
    settings = {
        family: folder_settings(load_folder(folders(family), None, LocalHost("cpu")), steps=3) for family in FAMILIES
    }
    assert {family: (one.cfg, one.steps, negative) for family, (one, negative) in settings.items()} == {
        "sd": (7.0, 3, ""), "sdxl": (7.0, 3, ""), "sd3": (7.0, 3, ""), "flux": (1.0, 3, None),
    }  # fmt: skip


def remove(part):
    return lambda folder: shutil.rmtree(folder / part)


def rewrite(part, **entries):
    def change(folder):
        path = folder / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return change


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("sd", remove("unet"), "no unet or transformer"),
        ("sd", remove("scheduler"), "no scheduler, expected what a model of the SD1.5 class has"),
        ("sdxl", remove("text_encoder_2"), "no text_encoder_2, expected what a model of the SDXL class has"),
        pytest.param("sd3", remove("tokenizer_3"), "no tokenizer_3, expected what a model of the SD3 class has",
                     marks=pytest.mark.slow),
        ("sd", lambda folder: (folder / "unet" / "config.json").unlink(), "config.json': no such file"),
        ("sd", lambda folder: (folder / "vae" / "config.json").write_text("{"), "no JSON"),
        ("sd", rewrite("unet", _class_name="UNet3DConditionModel"), "UNet3DConditionModel, expected a model of"),
        ("sd", rewrite("unet", addition_embed_type="image"), "UNet2DConditionModel, image, expected"),
        ("sd", rewrite("text_encoder", architectures=["BertModel"]), "BertModel, expected CLIPTextModel"),
        ("sd", lambda folder: [p.unlink() for p in (folder / "vae").glob("*.safetensors")], "no .safetensors"),
    ],
)  # fmt: skip
def test_what_a_folder_lacks_is_said(family, change, said, folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders(family), folder)
    change(folder)
    with pytest.raises(RegionStyleError, match="--model") as error:
        load_folder(folder, None, LocalHost("cpu"))
    assert said in str(error.value)


def test_an_expert_that_is_not_there(folders, photo, tmp_path, capsys):
    words = ["stylize", str(photo), "turn it into x", "--whole", "-o", str(tmp_path / "o.png"), "--device", "cpu"]
    assert main([*words, "--model", str(folders("sd")), "--expert", str(tmp_path / "none.safetensors")]) == 2
    assert "none.safetensors" in capsys.readouterr().err


def test_layers_the_network_does_not_have_are_reported(folders, tmp_path):
    """In ComfyUI's own names, which only the network itself can tell apart."""
    path = tmp_path / "other.safetensors"
    from safetensors.torch import save_file

    layer = "diffusion_model.input_blocks.7.1.transformer_blocks.0.attn1.to_q"
    save_file({f"{layer}.lora_down.weight": torch.ones(1, 64), f"{layer}.lora_up.weight": torch.ones(64, 1)}, path)
    with pytest.raises(RegionStyleError, match=r"input_blocks\.7\.1.*layers of this network"):
        load_folder(folders("sd"), path, LocalHost("cpu"))


def test_text_encoder_keys_that_are_left_out_are_said(folders, tmp_path, caplog):
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    more = {f"{name}.lora_down.weight": torch.ones(1, 4), f"{name}.lora_up.weight": torch.ones(4, 1)}
    expert = save_peft_folder(network_of(folders("sd")), tmp_path / "style", more)
    with caplog.at_level(logging.WARNING, "regionstyle"):
        predictor = load_folder(folders("sd"), expert, LocalHost("cpu"))
    assert predictor.experts.names == ["style"]
    assert "'style': 2 keys of its file act on the text encoder and are not used" in caplog.text


@pytest.mark.parametrize(
    ("files", "variant"),
    [
        (["diffusion_pytorch_model.safetensors"], None),
        (["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"], None),
        (["model.fp16.safetensors"], "fp16"),
        (["model.bf16.safetensors", "model.fp16.safetensors"], "fp16"),
        (["diffusion_pytorch_model.non_ema.safetensors"], "non_ema"),
        (["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"], "fp16"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], None),
        (["other.safetensors"], None),
    ],
)
def test_which_variant_of_the_weights_is_read(files, variant, tmp_path):
    for name in files:
        (tmp_path / name).touch()
    assert weights_variant(tmp_path) == variant


def test_a_folder_with_half_precision_files_only(folders, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(folders("sd"), folder)
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (folder / part).glob("*.safetensors")
        file.rename(file.with_suffix(".fp16.safetensors"))
    plain, half = (load_folder(each, None, LocalHost("cpu")).network for each in (folders("sd"), folder))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), half.parameters(), strict=True))


UNET, SD3, FLUX = (
    f"model.diffusion_model.{part}" for part in ("input_blocks.0.0", "joint_blocks.0", "double_blocks.0")
)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            [UNET, "cond_stage_model.transformer.x"],
            "a single-file checkpoint of SD1.5.* StableDiffusionPipeline.from_single",
        ),
        ([UNET, "cond_stage_model.model.x"], "a single-file checkpoint of SD2.* StableDiffusionPipeline.from_single"),
        (
            [UNET, "conditioner.embedders.1.model.x"],
            "a single-file checkpoint of SDXL.* StableDiffusionXLPipeline.from",
        ),
        (
            [SD3, "text_encoders.clip_l.x"],
            "a single-file checkpoint of SD3.* StableDiffusion3Pipeline.from_single_file",
        ),
        ([FLUX, "text_encoders.clip_l.x"], "a single-file checkpoint of FLUX.1.* FluxPipeline.from_single_file"),
        (["double_blocks.0.img_attn.qkv.weight"], "the network of FLUX.1 alone.*Download the whole model"),
        (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], "a LoRA file.*Give it with --expert"),
        (["something.weight"], "a kind that is not recognised.*from_single_file"),
        (None, "a kind that is not recognised.*from_single_file"),
    ],
)
def test_a_single_file_is_named_for_what_it_is(names, says, tmp_path):
    path = tmp_path / "model.safetensors"
    if names is None:
        path.write_bytes(b"x")
    else:
        save_file({name: torch.zeros(1) for name in names}, path)
    with pytest.raises(RegionStyleError, match=says) as found:
        load_folder(path, None, LocalHost("cpu"))
    assert "expected a folder with a model of" in str(found.value)
