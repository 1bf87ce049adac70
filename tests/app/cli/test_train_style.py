"""`regionstyle train style`, from a folder of pictures to a file: what it writes, refuses, and keeps when stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from regionstyle.nodes.app.cli import main as cli
from regionstyle.nodes.engine.io.safe_write import only_one
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.training.state import read_state


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from regionstyle.nodes.tinyworld.world import restyle_whole, scene

    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        made = restyle_whole(scene(seed), "oil paint")
        Image.fromarray((made.image[32:96, 32:96] * 255).astype("uint8")).save(folder / f"{seed}.png")
    (folder / "1.txt").write_text(scene(1).caption)
    return folder


def line(folder, output, *more):
    common = ["--style", "oil paint", "--steps", "2", "--batch", "2", "--rank", "2", "--resolution", "64"]
    return ["train", "style", "--images", str(folder), "-o", str(output), *common, "--device", "cpu", *more]


def test_a_folder_becomes_a_file_with_previews_and_curve(folder, tmp_path, capsys):
    output = tmp_path / "new" / "my-oil.safetensors"
    assert cli.main(line(folder, output, "--preview-every", "1", "--checkpointing", "--layers", "attention")) == 0
    expert = load_expert(output)
    assert (expert.name, expert.style) == ("my-oil", "oil paint")
    assert all(layer.up.any() and layer.rank == 2 for layer in expert.layers.values())
    assert sorted(f.name for f in (tmp_path / "new" / "my-oil").iterdir()) == [
        "loss.png",
        "step-000001.png",
        "step-000002.png",
    ]
    assert Image.open(tmp_path / "new" / "my-oil" / "step-000002.png").size == (64, 64)
    assert str(output) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["-o", "x.pt"], ".safetensors"),
        (["--images", "nowhere"], "no such folder"),
        (["--model", "nowhere"], "--model"),
        (["--resolution", "60"], "multiple of 8"),
        (["--resume"], "no file"),
    ],
)
def test_wrong_input_is_one_line(folder, tmp_path, capsys, more, part):
    assert cli.main(line(folder, tmp_path / "a.safetensors", *more)) == 2
    (text,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("regionstyle:")]
    assert part in text
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ([], "-o"),
        (["-o", "a.safetensors", "--lr", "0"], "--lr: '0': give a number from 1e-07 to 1"),
        (["-o", "a.safetensors", "--seed", "-1"], "--seed: '-1': give a whole number from 0"),
        (["-o", "a.safetensors", "--rank", "100000"], "--rank: '100000': give a whole number from 1 to 256"),
    ],
)
def test_misuse_is_one_line(capsys, more, part):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "style", "--images", "x", *more])
    assert stop.value.code == 2
    (text,) = capsys.readouterr().err.splitlines()
    assert part in text


def test_a_diffusers_folder_of_sdxl_can_be_trained(folder, tmp_path):
    save_tiny_sdxl(tmp_path / "sdxl")
    output = tmp_path / "x.safetensors"
    assert (
        cli.main(line(folder, output, "--model", str(tmp_path / "sdxl"), "--steps", "1", "--preview-every", "9")) == 0
    )
    assert any("transformer_blocks.1" in path for path in load_expert(output).layers)


def save_tiny_sdxl(folder: Path) -> None:
    """A random network of the SDXL class with both text encoders, in diffusers' layout."""
    from diffusers import AutoencoderKL
    from family_models import diffusers_scheduler, fill, unet
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from regionstyle.nodes.tinyworld.tokenizer import load_tokenizer

    fill(unet("sdxl")).save_pretrained(folder / "unet")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4, **blocks)
    fill(vae).save_pretrained(folder / "vae")
    tokenizer = load_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=64, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    for end, kind in (("", CLIPTextModel), ("_2", CLIPTextModelWithProjection)):
        kind(config).save_pretrained(folder / f"text_encoder{end}")
        tokenizer.save_pretrained(folder / f"tokenizer{end}")
    diffusers_scheduler("sdxl").save_pretrained(folder / "scheduler")


def test_a_second_training_of_one_name_is_refused(folder, tmp_path, capsys):
    output = tmp_path / "a.safetensors"
    with only_one(tmp_path / "a.train.lock", "it"):
        assert cli.main(line(folder, output, "--steps", "1")) == 2
    assert "a.safetensors, which is running now" in capsys.readouterr().err
    assert not output.exists()


def test_a_place_that_cannot_be_written_is_found_before_the_work(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("regionstyle.nodes.app.cli.train_style._trained", lambda *_: pytest.fail("work was done"))
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file" / "a.safetensors", tmp_path / ("n" * 260 + ".safetensors"), tmp_path / "a.pt"):
        assert cli.main(line(folder, output, "--steps", "1")) == 2
        assert "--output: got" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_keeps_the_state_and_resume_goes_on(folder, tmp_path):
    """A real process and a real Ctrl-C; the result is that of an uninterrupted run, bit for bit."""
    start = [sys.executable, "-c", "import sys; from regionstyle.nodes.app.cli.main import main; sys.exit(main())"]
    output = tmp_path / "a.safetensors"
    command = [*start, *line(folder, output, "--steps", "8", "--preview-every", "2")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
        while not (tmp_path / "a" / "step-000002.png").exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130, (tmp_path / "log").read_text()
    assert "--resume goes on" in (tmp_path / "log").read_text()
    assert 2 <= read_state(tmp_path / "a.train.pt")["done"] < 8
    assert not output.exists()
    assert cli.main(line(folder, output, "--steps", "8", "--preview-every", "2")) == 2, "the state would be lost"
    assert cli.main(line(folder, output, "--steps", "8", "--preview-every", "2", "--resume")) == 0
    whole = tmp_path / "whole.safetensors"
    assert cli.main(line(folder, whole, "--steps", "8", "--preview-every", "2")) == 0
    resumed, once = load_expert(output), load_expert(whole)
    assert all(torch.equal(layer.up, once.layers[path].up) for path, layer in resumed.layers.items())
