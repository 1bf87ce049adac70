"""A region of 1000 pixels on every way that restyles one: painted at its own size, or said to be enlarged.

No path enlarges more than 1.5 times in silence. How fine a result is, is measured: what was drawn at 128 pixels and
enlarged has hardly any steps between neighbouring pixels.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.engine.region.enlarged import SMEAR, enlarged_note

SIGNATURES = Path(__file__).parents[1] / "node_signatures.json"
WIDTH, HEIGHT = 1000, 136
WHERE = {
    "whole": ["--whole"],
    "box": ["--box", f"0,0,{WIDTH},{HEIGHT}", "--outline", "box"],
    "mask": ["--mask", "mask.png"],
}


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A soft picture, so that whatever is fine in a result is the style's; a mask of all of it beside it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / 37 + y / 23) * 90 + 128, np.cos(x / 51) * 70 + 120, np.sin(y / 31 + x / 90) * 80 + 110]
    Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(tmp_path / "photo.png")
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photo.png"


def fineness(path: Path) -> float:
    """Mean step between pixels beside each other, of what is left after a blur over three pixels is taken off."""
    pixels = np.asarray(Image.open(path).convert("L"), dtype=np.float32)
    return float(np.abs(pixels[:, 1:-1] - (pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]) / 3).mean())


def test_what_is_said():
    assert enlarged_note(SMEAR, 128, "Do it.") == ""
    assert enlarged_note(SMEAR + 0.1, 128, "Do it.") == (
        "drawn at 128 pixels and enlarged 1.6 times: fine detail is lost. Do it."
    )


@pytest.mark.slow
@pytest.mark.parametrize("where", list(WHERE))
def test_on_the_command_line(photo, capsys, where):
    line = ["stylize", str(photo), "mosaic", *WHERE[where], "--device", "cpu", "-o"]
    assert main([*line, "full.png", "--steps", "2"]) == 0
    assert "enlarged" not in capsys.readouterr().err
    assert main([*line, "native.png", "--detail", "native", "--steps", "1"]) == 0
    assert "enlarged 7.8 times" in capsys.readouterr().err
    assert main([*line, "both.png", "--detail", "both", "--steps", "1"]) == 0
    assert "enlarged 7.8 times: the picture's own fine detail is lost" in capsys.readouterr().err
    assert fineness(photo.with_name("full.png")) > 3 * fineness(photo.with_name("native.png"))


@pytest.mark.slow
def test_a_generator_paints_at_full_size(photo, capsys):
    assert main(["stylize", str(photo), "watercolor", "--whole", "--device", "cpu", "-o", "out.png"]) == 0
    assert "enlarged" not in capsys.readouterr().err


@pytest.mark.slow
def test_clip_says_so(photo, capsys):
    line = ["stylize", str(photo), "mosaic", "--whole", "--method", "clip", "--iterations", "1", "--device", "cpu"]
    assert main([*line, "-o", "out.png"]) == 0
    assert "enlarged 7.8 times" in capsys.readouterr().err


def test_the_attention_supervised_sampler_has_no_picture_to_enlarge():
    inputs = json.loads(SIGNATURES.read_text())["RegionStyleAttentionSampler"]["input"]
    assert "IMAGE" not in json.dumps(inputs)
    assert "LATENT" in json.dumps(inputs)


SCRIPT = """
from dataclasses import replace
import torch
from regionstyle.nodes.app.comfyui.sentence import SentenceRequest, restyle_sentence
from regionstyle.nodes.app.local_clip import local_clip_networks
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.engine.region.regions import Regions
from regionstyle.nodes.grounding.settings import AttentionSettings
from regionstyle.nodes.local_clip.comfy.local_clip import style_batch
from regionstyle.nodes.local_clip.settings import LocalClipSettings
from regionstyle.nodes.router.comfy.experts import attach, restyle_batch
from regionstyle.nodes.router.settings import RestyleSettings
from regionstyle.nodes.sms.comfy.sms import match_batch
from regionstyle.nodes.sms.settings import Framing, SmsSettings
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny

tiny.register_experts()
HEIGHT, WIDTH = 136, 1000
said = {}
with torch.inference_mode():
    model, clip, vae = tiny.load_model(), tiny.load_clip(), tiny.load_vae()
    model, _ = attach(model, "tinyworld/mosaic.safetensors", 1.0, None)
    small = torch.rand(1, 3, 4, 16, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(small, (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1).movedim(1, -1)
    mask = torch.ones(1, HEIGHT, WIDTH)
    regions = Regions((Region.of_mask("picture", mask[0], style="mosaic"),), HEIGHT, WIDTH)
    for detail, strength in (("auto", 0.35), ("auto", 0.6), ("native", 0.35)):
        settings = RestyleSettings(strength=strength, steps=1, cfg=1.0, detail=detail)
        made = restyle_batch(model, clip, vae, image, mask, "a picture in mosaic style", "", settings)
        said[f"region {detail} {strength}"] = made.warning
        request = SentenceRequest("", "a {phrase} in {style} style", "", regions, True)
        made = restyle_sentence(model, clip, vae, image, request, settings, AttentionSettings())
        said[f"sentence {detail} {strength}"] = made.warning
    settings = SmsSettings(iterations=2)
    for name, where in (("whole", None), ("mask", mask)):
        for detail in ("auto", "native"):
            made = match_batch(model, clip, vae, image, where, "", "mosaic", 1.0, settings, Framing(detail=detail))
            said[f"sms {name} {detail}"] = made.warning
    made = style_batch(local_clip_networks(None), image, None, mask, "mosaic", LocalClipSettings(iterations=1))
    said["clip"] = made.warning
print(json.dumps(said))
"""


@pytest.mark.slow
def test_on_the_nodes(run_in_comfy):
    said = run_in_comfy(SCRIPT)
    in_tiles = {"region auto 0.35", "sentence auto 0.35", "sms whole auto", "sms mask auto"}
    assert {name for name, words in said.items() if "enlarged" not in words} == in_tiles
    assert "own fine detail" in said["region auto 0.6"]
    assert "own fine detail" in said["sentence auto 0.6"]
    assert "enlarged 3.9 times" in said.pop("sms whole native")
    assert all("enlarged 7.8 times" in words for name, words in said.items() if name not in in_tiles)
