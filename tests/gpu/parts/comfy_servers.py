"""Part 2: ComfyUI's server on the GPU, with its dynamic memory and without."""

from __future__ import annotations

import time
from typing import Any

from registry import Run, part

# restyling, experts, the style matching score, its generator's and an expert's training
PROMPTS = ("restyle_by_sentence", "two_styles_two_things", "generate_with_expert", "sms_stylize",
           "sms_train_and_apply", "style_from_pictures")  # fmt: skip
DRY_PROMPTS = ("two_styles_two_things", "sms_stylize")
REPEATED, DRY_REPEATED = "restyle_by_sentence", "two_styles_two_things"
MIB = 2**20


@part("server-dynamic", order=20, seconds=80)
def dynamic(run: Run) -> None:
    """The default of ComfyUI on an NVIDIA GPU: weights are streamed."""
    serve(run)


@part("server-static", order=21, seconds=70)
def static(run: Run) -> None:
    """With `--disable-dynamic-vram`."""
    serve(run, "--disable-dynamic-vram")


def serve(run: Run, *flags: str) -> None:
    from comfyui import serving

    began = time.monotonic()
    with serving(run, *flags) as server:
        run.figure("start of the server", time.monotonic() - began, "s")
        streamed = "DynamicVRAM support detected and enabled" in server.log_text()
        run.check("dynamic memory is as asked", streamed == (run.device == "cuda" and not flags), "see the log")
        for name in DRY_PROMPTS if run.dry else PROMPTS:
            prompt(run, server, name)
        memory(run, server, 3 if run.dry else 20)


def ended(server: Any, name: str, seed: int, most: int) -> tuple[float, dict[str, Any]]:
    """Seconds of one prompt, and its entry in the history."""
    from comfyui import shortened, workflow

    began = time.monotonic()
    history = server.wait(server.post(shortened(workflow(name, seed), most)))
    return time.monotonic() - began, history


def prompt(run: Run, server: Any, name: str) -> None:
    """One workflow: it ends well and makes pictures that show something."""
    import numpy
    from PIL import Image

    took, history = ended(server, name, 100, 4 if run.dry else 40)
    right, said = history["status"]["status_str"] == "success", str(history["status"]["messages"][-1])
    run.check(f"{name} ends well", right, "" if right else said)
    if not right:
        return
    run.figure(name, took, "s")
    spread = [float(numpy.asarray(Image.open(file).convert("RGB")).std()) for file in server.images(history)]
    run.check(f"{name} makes pictures", bool(spread) and max(spread) > 5, f"standard deviations: {spread}")


def memory(run: Run, server: Any, count: int) -> None:
    """What the server holds after prompts with other seeds, and how much more than after the first few."""
    after = []
    for number in range(count):
        ended(server, DRY_REPEATED if run.dry else REPEATED, 200 + number, 4)
        if number + 1 in (2, count):
            after.append((server.get("/probe/memory"), gpu_held(server)))
    (early, early_gpu), (late, late_gpu) = after[0], after[-1]
    run.figure(f"resident after {count} prompts", late["resident"] / MIB, "MiB")
    run.figure(f"GPU memory after {count} prompts", late_gpu, "MiB", of_gpu=True)
    run.figure("GPU memory more than after 2", late_gpu - early_gpu, "MiB", wanted="<= 64", of_gpu=True)
    for kind in ("tensors", "networks", "patchers", "ours"):
        grown = late["held"].get(kind, 0) - early["held"].get(kind, 0)
        run.figure(f"{kind} more than after 2", grown, "objects", wanted="<= 0")


def gpu_held(server: Any) -> float:
    """MiB of the GPU that are taken, by torch and by whatever streams weights; 0 on a CPU."""
    (device,) = server.get("/system_stats")["devices"]
    return 0.0 if device["type"] == "cpu" else (device["vram_total"] - device["vram_free"]) / MIB
