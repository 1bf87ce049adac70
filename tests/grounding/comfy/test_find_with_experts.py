"""Things are looked for in the picture as it is, whatever experts are on the MODEL: in every node that looks."""

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import torch
from regionstyle.nodes.grounding.comfy.attention import find_in_batch
from regionstyle.nodes.grounding.comfy.grounding import ground_sentence
from regionstyle.nodes.grounding.comfy.network_nodes import EncodeImage, LoadSam
from regionstyle.nodes.grounding.comfy.regions import attention_regions
from regionstyle.nodes.grounding.settings import AttentionSettings, DetectorSettings
from regionstyle.nodes.router.comfy.experts import attach
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny
from regionstyle.nodes.tinyworld.world import scene

tiny.register_experts()
with torch.inference_mode():
    model, clip, vae = tiny.load_model(), tiny.load_clip(), tiny.load_vae()
    image = torch.from_numpy(scene(3).image.copy())[None]
    thing = " ".join((scene(3).objects[0].color, scene(3).objects[0].shape))
    looking = AttentionSettings(seed=0, noise_samples=1)
    embedding = EncodeImage.execute(LoadSam.execute("tinyworld/sam.safetensors").args[0], image).args[0]

    def looked(patched):
        found = find_in_batch(patched, clip, vae, image, thing, "", looking, False)
        regions, _ = attention_regions(patched, clip, vae, image, f"make the {thing} neon", looking, False)
        sources = {"detector": None, "vlm": None, "regions": None, "denoiser": (patched, clip, vae)}
        asked = image, f"make the {thing} neon", embedding, sources
        grounded = ground_sentence(*asked, DetectorSettings(), "best of three", False)
        return {"find": found.masks, "score": torch.tensor(found.score), "regions": regions.regions.union(),
                "sam": grounded.regions.union()}

    bare, result = looked(model), {"share": 0.0}
    result["share"] = float((bare["find"] > 0.5).float().mean())
    for style in ("neon", "mosaic"):
        styled = attach(model, f"tinyworld/{style}.safetensors", 1.0, None)[0]
        result[style] = {name: float((mask - bare[name]).abs().max()) for name, mask in looked(styled).items()}
        masked = attach(model, f"tinyworld/{style}.safetensors", 1.0, torch.ones(1, 64, 64))[0]
        result[style + " masked"] = {n: float((m - bare[n]).abs().max()) for n, m in looked(masked).items()}
print(json.dumps(result))
"""


@pytest.mark.parametrize("run", ["run_in_comfy", "run_in_old_comfy"])
def test_experts_on_the_model_change_nothing_of_what_is_found(run, request):
    result = request.getfixturevalue(run)(SCRIPT)
    assert 0.01 < result.pop("share") < 0.4
    assert {error for found in result.values() for error in found.values()} == {0.0}
