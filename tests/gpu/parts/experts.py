"""Part 3: regional experts beside ComfyUI's hook LoRAs with masks, on networks of the real sizes, weights random."""

from __future__ import annotations

from typing import Any

from registry import Run, part

COUNTS = (1, 2, 4, 8)
MARK = {4: "<= 1.15"}  # times the plain model

BIG = """
import statistics, time
import comfy.hooks, comfy.sample, comfy.supported_models
import comfy.utils
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate

SHAPES = {
    "SD15": {"num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4], "transformer_depth": [1] * 6 + [0] * 2,
             "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1, "context_dim": 768,
             "use_linear_in_transformer": False, "adm_in_channels": None},
    "SDXL": {"num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
             "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10,
             "context_dim": 2048, "use_linear_in_transformer": True, "num_classes": "sequential",
             "adm_in_channels": 2816, "num_heads": -1, "num_head_channels": 64},
}
SMALL = {"model_channels": 32, "num_heads": 4, "num_head_channels": -1, "transformer_depth_middle": 1}

def shallow(shape):
    return {**shape, **SMALL, **{key: [min(depth, 1) for depth in shape[key]]
                                 for key in ("transformer_depth", "transformer_depth_output")}}

def random_model(kind, small):
    '''A MODEL of the real architecture, weights drawn where it runs.'''
    device = comfy.model_management.get_torch_device()
    shape = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "legacy": False,
             "use_spatial_transformer": True, "use_temporal_attention": False, **SHAPES[kind]}
    shape = shallow(shape) if small else shape
    config = getattr(comfy.supported_models, kind)(dict(shape))
    config.unet_config.update(shape)
    config.set_inference_dtype(torch.float32 if small else torch.float16, None)
    model = config.get_model({}, "", device=device)
    for name, parameter in model.diffusion_model.named_parameters():
        scale = 0.05 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        parameter.data.normal_(float(parameter.ndim == 1 and "norm" in name and name.endswith("weight")), scale)
    return patcher_of(model.eval().to(device)), shape["context_dim"]

def memory():
    return torch.cuda.max_memory_allocated() / 2**20 if GPU else float("nan")

def measured(model, text, steps=STEPS, runs=RUNS):
    '''Seconds of a step, and the most that torch held of the GPU, in MiB.'''
    def run():
        comfy.sample.sample(model, noise(1, 4, SIZE, SIZE), steps, 1.0, "euler", "normal", text, text,
                            torch.zeros(1, 4, SIZE, SIZE), disable_pbar=True, seed=0)
        if GPU:
            torch.cuda.synchronize()
    run()
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) / steps)
    return statistics.median(times), memory()

def figure(name, value, unit, wanted=None):
    entry = {"part": PART, "figure": name, "value": None if value != value else value, "unit": unit}
    if wanted:
        entry |= {"wanted": wanted, "reached": value <= float(wanted.split()[1]) if GPU else None}
    with open(RESULTS, "a") as lines:
        lines.write(json.dumps(entry) + "\\n")

with torch.inference_mode():
    model, width = random_model(KIND, SMALL_SIZES)
    text = conditioning(width=width, pooled=1280)
    plain, held = measured(model, text)
    figure("plain model", 1000 * plain, "ms a step")
    figure("plain model, GPU memory", held, "MiB")
    for count in COUNTS:
        experts, masks = experts_of(model.model.diffusion_model, count), stripes(count, SIZE)
        gates = Gates({e.name: RegionGate(m[None]) for e, m in zip(experts, masks)})
        took, most = measured(attach_to_comfy(model, experts, gates), text)
        figure(f"{count} regional experts", took / plain, "x the plain model", MARK.get(count))
        figure(f"{count} regional experts, further memory", most - held, "MiB")
    for count in HOOKS:  # weights are patched at every step for every region: two steps take long enough
        text_of_all = hooked(text, experts_of(model.model.diffusion_model, count), stripes(count, SIZE))
        took, most = measured(model, text_of_all, min(STEPS, 2), 1)
        figure(f"{count} hook LoRAs", took / plain, "x the plain model")
        figure(f"{count} hook LoRAs, further memory", most - held, "MiB")
print(json.dumps({}))
"""


def beside_hooks(run: Run, kind: str, latent: int) -> None:
    """kind: ComfyUI's class; figures are written by the script itself, one by one."""
    from bench_experts import MODELS, SETUP
    from comfyui import find

    from comfy_script import run_script

    folder, python = find()
    given: dict[str, Any] = {
        "KIND": kind, "SIZE": 8 if run.dry else latent, "STEPS": 1 if run.dry else 8, "RUNS": 1 if run.dry else 3,
        "COUNTS": (1, 4) if run.dry else COUNTS, "HOOKS": (2,) if run.dry else COUNTS, "MARK": MARK,
        "SMALL_SIZES": run.dry, "GPU": run.device == "cuda", "PART": run.name, "RESULTS": str(run.results),
    }  # fmt: skip
    script = MODELS + SETUP + "".join(f"{key} = {value!r}\n" for key, value in given.items()) + BIG
    run_script(folder, python, script, seconds=run.left(), cpu=run.device == "cpu")


@part("experts-sd15", order=30, seconds=50)
def sd15(run: Run) -> None:
    beside_hooks(run, "SD15", 64)


@part("experts-sdxl", order=31, seconds=80)
def sdxl(run: Run) -> None:
    beside_hooks(run, "SDXL", 128)
