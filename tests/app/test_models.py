"""`stylize --model FOLDER --expert FILE`: a folder in diffusers layout, with small random networks of real classes."""

import numpy as np
import pytest
from PIL import Image

from regionstyle.nodes.app.cli import main
from regionstyle.nodes.tinyworld.networks import new_text_tower, new_unet, scheduler
from regionstyle.nodes.tinyworld.shipped import expert_path
from regionstyle.nodes.tinyworld.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    place = tmp_path_factory.mktemp("model")
    tokenizer = load_tokenizer()
    config = new_text_tower(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id).config
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    new_unet().save_pretrained(place / "unet")
    AutoencoderKL(block_out_channels=(32, 32, 32, 32), **kinds).save_pretrained(place / "vae")
    CLIPTextModel(config).save_pretrained(place / "text_encoder")
    tokenizer.save_pretrained(str(place / "tokenizer"))
    scheduler().save_pretrained(place / "scheduler")
    return place


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (150, 211, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.slow
def test_a_folder_with_an_expert(folder, photo, tmp_path):
    words = ["stylize", str(photo), "turn it into a mosaic", "--box", "20,30,90,110", "--steps", "2", "--device", "cpu"]
    made = {}
    for name, expert in (("plain", []), ("styled", ["--expert", str(expert_path("mosaic"))])):
        out = tmp_path / f"{name}.png"
        assert main([*words, "-o", str(out), "--model", str(folder), *expert]) == 0
        made[name] = np.asarray(Image.open(out))
    before = np.asarray(Image.open(photo))
    assert (made["plain"] != made["styled"]).any(), "the expert had no effect"
    for after in made.values():
        assert (after != before).any()
        assert (after[:, 110:] == before[:, 110:]).all()


def test_an_expert_that_is_not_there(folder, photo, tmp_path, capsys):
    words = ["stylize", str(photo), "turn it into x", "--whole", "-o", str(tmp_path / "o.png"), "--device", "cpu"]
    assert main([*words, "--model", str(folder), "--expert", str(tmp_path / "none.safetensors")]) == 2
    assert "none.safetensors" in capsys.readouterr().err
