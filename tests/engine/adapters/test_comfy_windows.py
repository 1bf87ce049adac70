"""ComfyUI's context windows: each frame of a batch keeps its own mask, whichever window shows it."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

SCRIPT = """
import comfy.sample, inspect
from comfy_extras.nodes_context_windows import ContextWindowsManualNode as node
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.lora.init import init_lora

FRAMES = 5  # and 4 steps: 0.3.64 compares the times of all frames with those of all steps, one by one

def windowed(model, **options):
    values = dict(context_length=2, context_overlap=1, context_schedule="standard_static", context_stride=1,
                  closed_loop=False, fuse_method="flat", dim=0, freenoise=False, **options)
    known = inspect.signature(node.execute).parameters
    return node.execute(model=model, **{name: value for name, value in values.items() if name in known}).args[0]

def sample(model, frames=slice(None), steps=4):
    latent = torch.zeros(FRAMES, 4, 8, 8)[frames]
    return comfy.sample.sample(model, noise(FRAMES, 4, 8, 8)[frames], steps, 2.0, "euler", "normal", conditioning(),
                               conditioning(seed=1), latent, disable_pbar=True, seed=0)

with torch.inference_mode():
    model = sd_model()
    expert = init_lora(model.model.diffusion_model, "sketch", "", rank=2, alpha=2, layers="all", seed=1)
    generator = torch.Generator().manual_seed(2)
    for layer in expert.layers.values():
        layer.up.copy_(torch.randn(layer.up.shape, generator=generator) * 0.3)
    attach = lambda gate: attach_to_comfy(model, [expert], Gates({"sketch": gate}))
    masks = (torch.rand(FRAMES, 8, 8, generator=generator) > 0.5).float()
    gates = {"masks": masks, "regions": RegionGate(masks, 0.7), "numbers": torch.linspace(0, 1, FRAMES),
             "one mask": masks[:1], "one number": 0.5}
    result = {"far": {}, "errors": {}}
    for name, gate in gates.items():
        whole = sample(attach(gate))
        result["far"][name] = far(sample(windowed(attach(gate))), whole)
    whole = sample(attach(masks))
    result["differs"] = far(whole, sample(attach(masks.roll(1, 0))))
    result["longer than the batch"] = far(sample(windowed(attach(masks[:2])), slice(0, 2)), sample(attach(masks[:2]),
                                          slice(0, 2)))
    for name, gate in {"two": masks[:2], "four": masks[:4], "seven": torch.cat([masks, masks[:2]])}.items():
        result["errors"][name] = message(sample, windowed(attach(gate)))
    over_height = windowed(attach(masks))
    over_height.model_options["context_handler"].dim = 2
    result["errors"]["height"] = message(sample, over_height)
    result["after"] = far(sample(attach(masks)), whole)
    if "latent_retain_index_list" in inspect.signature(node.execute).parameters:
        # every window shows the first frame in its first place, with its own mask there
        first = {"latent_retain_index_list": "0", "causal_window_fix": False}
        retained = windowed(attach(masks), **first)
        other = masks.clone(); other[0] = 1 - other[0]
        moved = windowed(attach(other), **first)
        result["retained"] = far(sample(retained)[1:], sample(moved)[1:])
print(json.dumps(result))
"""


@pytest.mark.parametrize("run", ["run_in_comfy", "run_in_old_comfy"])
def test_frames_keep_their_own_masks_in_windows(run, request):
    result = request.getfixturevalue(run)(MODELS + SCRIPT)
    assert {name: error for name, error in result["far"].items() if error > 1e-4} == {}
    assert result["differs"] > 1e-2
    assert result["longer than the batch"] == result["after"] == 0
    for name in ("two", "four", "seven"):
        assert "gate of 'sketch': got" in result["errors"][name], name
        assert "expected 1 or 5, the number of frames, of which a context window shows a part" in result["errors"][name]
    assert "context windows: got windows over parts of the picture" in result["errors"]["height"]
    assert result.get("retained", 1) > 1e-3
