"""Time and memory of 0, 1, 2, 4 and 8 regional experts beside ComfyUI's own hook LoRAs with masks.

python tests/bench/bench_experts.py [--model tiny|sd15|both] [--latent 16] [--steps 2] [--counts 0,1,2,4,8]

Same model, same masks, same LoRA weights, same run: vertical stripes, one style each, cfg 1. Prints processor seconds
per step (wall clock in brackets; other programs disturb it), as a multiple of the plain model, and how much the peak
memory rose above the loaded model. Needs a ComfyUI (`COMFYUI_PATH`). Not a test: nothing here fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support")]

from comfy_script import run_script  # noqa: E402

MODELS = (HERE.parent / "support" / "comfy_models.py").read_text()
SD15 = {
    "model_channels": 320, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1] * 9 + [0] * 3, "context_dim": 768,
}  # fmt: skip

SETUP = """
import gc, resource, statistics, threading, time
import comfy.hooks, comfy.sample
from regionstyle.nodes.engine.lora.save import save_expert
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.lora.init import init_lora
import tempfile, comfy.utils

def current_rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

class Peak:
    '''The largest resident memory while a block runs, above what it was before, in MiB.'''

    def __enter__(self):
        gc.collect()
        self.before = self.most = current_rss()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.stop.wait(0.002):
            self.most = max(self.most, current_rss())

    def __exit__(self, *error):
        self.stop.set()
        self.thread.join()
        self.mib = (self.most - self.before) / 2**20

def experts_of(network, count):
    '''LoRAs of rank 8 on attention and feed-forward layers that do something.'''
    made = []
    for at in range(count):
        expert = init_lora(network, f"style{at}", f"style {at}", rank=8, layers="attention", seed=at)
        generator = torch.Generator().manual_seed(at)
        for layer in expert.layers.values():
            layer.up.copy_(torch.randn(layer.up.shape, generator=generator) * 0.02)
        made.append(expert)
    return made

def stripes(count, size):
    masks = torch.zeros(count, size * 8, size * 8)
    edges = torch.linspace(0, size * 8, count + 1).long()
    for mask, low, high in zip(masks, edges, edges[1:]):
        mask[:, low:high] = 1
    return masks

def as_lora(expert):
    with tempfile.TemporaryDirectory() as folder:
        save_expert(expert, folder + "/lora.safetensors")
        return comfy.utils.load_torch_file(folder + "/lora.safetensors")

def hooked(text, experts, masks):
    '''The positive prompt once per style, each with its mask and its hook LoRA, as ComfyUI's nodes make it.'''
    made = []
    for expert, mask in zip(experts, masks):
        hooks = comfy.hooks.create_hook_lora(as_lora(expert), 1.0, 0.0)
        part = [[states, {**extra, "mask": mask[None], "set_area_to_bounds": False, "mask_strength": 1.0}]
                for states, extra in text]
        made += comfy.hooks.set_hooks_for_conditioning(part, hooks)
    return made

"""

SCRIPT = """
def measured(model, text, size, steps):
    def run():
        latent = torch.zeros(1, 4, size, size)
        comfy.sample.sample(model, noise(1, 4, size, size), steps, 1.0, "euler", "normal", text, text, latent,
                            disable_pbar=True, seed=0)
    run()
    cpu, wall = [], []
    for _ in range(3):
        c, w = time.process_time(), time.perf_counter()
        run()
        cpu.append((time.process_time() - c) / steps)
        wall.append((time.perf_counter() - w) / steps)
    with Peak() as peak:
        run()
    return min(cpu), min(wall), peak.mib

with torch.inference_mode():
    if WHICH == "tiny":
        from regionstyle.nodes.tinyworld import comfy_tinyworld
        model, width = comfy_tinyworld.load_model(), 128
        width = next(m for n, m in model.model.diffusion_model.named_modules() if n.endswith("attn2.to_k")).in_features
    else:
        model, width = sd_model(**SD15), 768
    text, result = conditioning(width=width), {}
    for count in COUNTS:
        experts, masks = experts_of(model.model.diffusion_model, count), stripes(max(count, 1), SIZE)[:count]
        gates = Gates({e.name: RegionGate(m[None]) for e, m in zip(experts, masks)})
        ours = attach_to_comfy(model, experts, gates) if count else model
        result[count] = {"ours": measured(ours, text, SIZE, STEPS)}
        del ours
        if count and HOOKS:
            result[count]["hooks"] = measured(model, hooked(text, experts, masks), SIZE, STEPS)
print(json.dumps(result))
"""


def measure(which: str, latent: int, steps: int, counts: list[int], hooks: bool) -> dict:
    """Per count: (processor seconds per step, wall seconds per step, peak MiB) of ours and of hooks."""
    from regionstyle.nodes.app.comfyui.install import comfy_python, find_comfy

    comfy = find_comfy()
    given = f"WHICH, SIZE, STEPS, COUNTS, HOOKS, SD15 = {which!r}, {latent}, {steps}, {counts}, {hooks}, {SD15!r}\n"
    return run_script(comfy, comfy_python(comfy), MODELS + SETUP + given + SCRIPT, seconds=3600)


def table(which: str, latent: int, found: dict) -> str:
    """A line per count."""
    plain = found["0"]["ours"][0]
    lines = [f"{which}, latent {latent}x{latent}"]
    for count, ways in found.items():
        for way, (cpu, wall, mib) in ways.items():
            lines.append(f"{count:>3} {way:6} {cpu:8.3f} s/step ({wall:.3f})  {cpu / plain:5.2f}x  +{mib:.0f} MiB")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "sd15", "both"), default="both")
    parser.add_argument("--latent", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--counts", default="0,1,2,4,8")
    parser.add_argument("--no-hooks", action="store_true")
    args = parser.parse_args()
    for which in ("tiny", "sd15") if args.model == "both" else (args.model,):
        counts = [int(count) for count in args.counts.split(",")]
        found = measure(which, args.latent, args.steps, counts, not args.no_hooks)
        sys.stdout.write(table(which, args.latent, found) + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
