"""A run whose style had no effect says why: Restyle Region, Restyle by Sentence and SMS Stylize on ComfyUI MODELs."""

import pytest

SCRIPT = """
import torch
from safetensors.torch import load_file, save_file
from pathlib import Path
import folder_paths, tempfile
from regionstyle.nodes.engine.region.regions import Regions, region_of
from regionstyle.nodes.app.comfyui.restyle_nodes import RestyleSentence
from regionstyle.nodes.router.comfy.expert_nodes import Restyle
from regionstyle.nodes.router.comfy.experts import attach
from regionstyle.nodes.router.comfy.routing import by_regions, stacked
from regionstyle.nodes.router.settings import NoiseRange
from regionstyle.nodes.sms.comfy.sms_nodes import SmsStylize
from regionstyle.nodes.tinyworld import bundled, comfy_tinyworld as tiny
from regionstyle.nodes.tinyworld.world import scene

tiny.register_experts()
FILE = "tinyworld/mosaic.safetensors"
folder = Path(tempfile.mkdtemp())
folder_paths.add_model_folder_path("loras", str(folder))
state = load_file(str(bundled.expert_path("mosaic")))
save_file({key: tensor * ("lora_B" not in key and "lora_up" not in key) for key, tensor in state.items()},
          folder / "untrained.safetensors")

with torch.inference_mode():
    model, clip, vae = tiny.load_model(), tiny.load_clip(), tiny.load_vae()
    image = torch.from_numpy(scene(1).image)[None]
    mask, far = torch.zeros(1, 128, 128), torch.zeros(1, 128, 128)
    mask[:, 20:50, 20:50], far[:, 100:, 100:] = 1, 1
    regions = Regions((region_of("star", mask[0], style="mosaic"),), 128, 128)
    late, _ = by_regions(model, stacked(None, FILE, "", "", 1.0), regions, 0, NoiseRange(0.0, 0.01))
    models = {
        "on": attach(model, FILE, 1.0, None)[0], "off": attach(model, FILE, 0.0, None)[0],
        "far": attach(model, FILE, 1.0, far)[0], "late": late, "plain": model,
        "untrained": attach(model, "untrained.safetensors", 1.0, None)[0],
    }
    # one of two that acts
    models["both"] = attach(models["off"], "tinyworld/neon.safetensors", 1.0, None)[0]

    few = dict(steps=2, cfg=1.0, strength=0.2, margin=0.0)
    def restyled(name, where=mask):
        made = Restyle.execute(model=models[name], clip=clip, vae=vae, image=image, mask=where,
                               prompt="a star in mosaic style", negative="", **few)
        return made.ui.value
    def by_sentence(name):
        made = RestyleSentence.execute(model=models[name], clip=clip, vae=vae, image=image, sentence="",
                                       regions=regions, **few)
        return made.ui.value
    def matched(name, **more):
        made = SmsStylize.execute(model=models[name], clip=clip, vae=vae, image=image, caption="", style="mosaic",
                                  mask=mask, iterations=2, **more)
        return made.ui.value

    result = {"restyle": {name: restyled(name) for name in models},
              "empty": restyled("on", mask * 0), "unpainted": restyled("on", torch.zeros(1, 64, 64)),
              "sentence": {name: by_sentence(name) for name in ("on", "off", "plain")},
              "sms": {name: matched(name) for name in ("on", "off")}, "still": matched("on", rate=1e-5)}
print(json.dumps(result))
"""


def check(made: dict) -> None:
    idle = "style expert 'mosaic' did not act: {}\n"
    assert made["restyle"] == {
        "on": "restyled 1 of 1",
        "plain": "restyled 1 of 1",
        "off": idle.format("its strength is 0") + "restyled 1 of 1",
        "far": idle.format("its mask does not reach the region") + "restyled 1 of 1",
        "late": idle.format("none of the steps lay within its noise levels") + "restyled 1 of 1",
        "untrained": idle.format("all weights of its file are 0").replace("'mosaic'", "'untrained'")
        + "restyled 1 of 1",
        "both": idle.format("its strength is 0") + "restyled 1 of 1",
    }
    assert made["empty"] == made["unpainted"] == "empty mask, unchanged: image 0\nrestyled 0 of 1"
    assert made["sentence"]["on"] == "star -> mosaic"
    assert made["sentence"]["off"] == idle.format("its strength is 0") + "star -> mosaic"
    assert made["sentence"]["plain"].startswith("no experts attached: the prompt alone makes the style\n")
    assert made["sms"] == {"on": "2 of 2 iterations", "off": idle.format("its strength is 0") + "2 of 2 iterations"}
    assert made["still"].startswith("the iterations changed nothing that can be seen")


@pytest.mark.slow
def test_why_nothing_changed(run_in_comfy):
    check(run_in_comfy(SCRIPT))


@pytest.mark.slow
def test_why_nothing_changed_in_the_oldest_version(run_in_old_comfy):
    check(run_in_old_comfy(SCRIPT))
