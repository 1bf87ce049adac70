"""Local CLIP Style in ComfyUI, with the tiny networks."""

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import json, torch
from regionstyle.nodes.app.comfyui.local_clip_nodes import LocalClipLoader
from regionstyle.nodes.engine.region.regions import Regions, missing_region, region_of
from regionstyle.nodes.local_clip.comfy.local_clip_nodes import LocalClipStyle
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny
from regionstyle.nodes.tinyworld.world import scene
import comfy.model_management as management

def error(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ValueError as problem:
        return str(problem)
    return ""

QUICK = {"style": "mosaic", "iterations": 2, "patches": 4, "seed": 1}

with torch.inference_mode():
    networks = LocalClipLoader.execute(clip="tiny world").args[0]
    image = torch.from_numpy(scene(1).image.copy())[None]
    mask = torch.zeros(1, 128, 128); mask[0, 30:80, 30:80] = 1
    def node(**given):
        return LocalClipStyle.execute(networks=networks, image=image, **{**QUICK, "mask": mask, **given})
    def run(**given):
        return node(**given).args
    def said(**given):
        return node(**given).ui.as_dict()["text"][0]
    made, blended, strip, curves = run()
    again = run()[0]
    outside = (blended == 0)[..., None].expand_as(image)
    result = {
        "equal outside": bool(torch.equal(made[outside], image[outside])),
        "changed": float((made - image).abs().max()), "again": float((made - again).abs().max()),
        "strip": list(strip.shape), "curves": list(curves.shape), "inference": torch.is_inference_mode_enabled(),
    }
    size = (128, 128)
    items = (region_of("a", mask[0], style="neon"), region_of("b", torch.zeros(size), style="mosaic"))
    regions = Regions(items, *size)
    result["regions"] = float((run(mask=None, style="", regions=regions)[0] - image).abs().max())
    vae = tiny.load_vae()
    result["latent"] = float((run(optimise="latent", vae=vae)[0] - image).abs().max())
    result["whole"] = float(run(mask=None)[1].min())
    result["empty"] = float((run(mask=mask * 0)[0] - image).abs().max())
    missing = Regions((region_of("a", mask[0], style="neon"), missing_region("cat", size, style="mosaic")), *size)
    result["said"] = [
        said(mask=mask * 0), said(mask=None, style="", regions=missing), said(mask=torch.ones(1, 128, 128)),
        said(blending="poisson"),
    ]
    bare = Regions((region_of("a", mask[0]),), *size)
    result["errors"] = [
        error(run, mask=None, style="", regions=bare),
        error(run, regions=regions), error(run, regions=regions, mask=None), error(run, style=""),
        error(run, style="cubism"), error(run, optimise="latent"), error(run, vae=vae),
        error(LocalClipLoader.execute, clip="nowhere"),
    ]
    calls = []
    import comfy.utils
    def stop(self, value, total=None, preview=None):
        calls.append(value)
        if value == 2:
            management.interrupt_current_processing()
    comfy.utils.ProgressBar.update_absolute = stop
    kept = node(iterations=5)
    result["cancelled"] = [len(calls), float((kept.args[0] - image).abs().max())]
    result["told"] = kept.ui.as_dict()["text"][0]
    calls.clear()
    try:
        run(iterations=5, keep_best=False)
    except BaseException as problem:
        result["stopped"] = type(problem).__name__
print(json.dumps(result))
"""


@pytest.mark.parametrize("run", ["run_in_comfy", "run_in_old_comfy"])
def test_regions_masks_latents_and_cancel(run, request):
    result = request.getfixturevalue(run)(SCRIPT)
    assert result["equal outside"]
    assert result["changed"] > 0.05
    assert result["again"] == 0
    assert result["inference"]
    assert result["strip"][1] == 192
    assert result["curves"][1:] == [600, 480, 3]
    assert result["regions"] > 0.05
    assert result["latent"] > 0.01
    assert result["whole"] == 1
    assert result["empty"] == 0
    empty, missing, full, poisson = result["said"]
    assert "empty mask, unchanged: image 0" in empty
    assert "'cat' not found in image 0: empty mask" in missing
    assert full.startswith("2 iterations; judged by ")
    assert poisson.startswith("2 iterations; judged by ")
    starts = [error.split(":")[0] for error in result["errors"]]
    assert "style: got ''" in result["errors"][0]
    assert starts == ["style", "mask", "style", "style", "style", "optimise", "vae", "clip"]
    assert result["cancelled"][0] == 3
    assert result["cancelled"][1] > 0.05
    assert result["told"].count("cancelled") == 1
    assert result["told"].startswith(
        "cancelled after 2 of 5 iterations: the best picture so far\n2 iterations; judged by"
    )
    assert result["stopped"] == "InterruptProcessingException"
