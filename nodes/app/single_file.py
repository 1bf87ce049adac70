"""A single file given where a model's folder belongs: what it is, by the names of its tensors, and what to do with it.

It is not loaded: a checkpoint lacks the configurations and tokenizers of its parts, which diffusers'
`from_single_file` fetches from the internet, and this pack never does.
"""

from __future__ import annotations

from pathlib import Path

from ..engine.errors import RegionStyleError, wrong_input

# A tensor's name has this in it -> the kind of model, and diffusers' pipeline for it; the first that fits.
_MODELS = {
    "double_blocks.": ("FLUX.1", "FluxPipeline"),
    "joint_blocks.": ("SD3", "StableDiffusion3Pipeline"),
    "conditioner.embedders.1.": ("SDXL", "StableDiffusionXLPipeline"),
    "cond_stage_model.model.": ("SD2", "StableDiffusionPipeline"),
    "cond_stage_model.transformer.": ("SD1.5", "StableDiffusionPipeline"),
}
_LORA = (".lora_down.", ".lora_A.", ".hada_w1_a", ".lokr_w")
_TEXT = ("text_encoders.", "cond_stage_model.", "conditioner.")


def single_file_error(path: Path, accepts: str) -> RegionStyleError:
    """The error for a file given as `--model`, naming what it is; the caller raises it."""
    what, remedy = _described(_names(path))
    return wrong_input("--model", f"{str(path)!r}, {what}", accepts, remedy)


def _names(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file; none for other files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError):
        return []


def _described(names: list[str]) -> tuple[str, str]:
    """What the file is, and what to do."""
    if any(sign in name for name in names for sign in _LORA):
        return "a LoRA file", "Give it with --expert, and a model's folder here."
    kind, pipeline = next((m for sign, m in _MODELS.items() if any(sign in name for name in names)), ("", ""))
    convert = (
        f"Convert it once, with an internet connection: {pipeline or 'StableDiffusionPipeline'}.from_single_file(FILE)"
        ".save_pretrained(FOLDER) in diffusers"
    )
    if not kind:
        convert += " (for SDXL StableDiffusionXLPipeline)"
        return "a single-file checkpoint of a kind that is not recognised", f"{convert}, and give the folder."
    if any(name.startswith(_TEXT) for name in names):
        return f"a single-file checkpoint of {kind}", f"{convert}, and give the folder."
    remedy = "Download the whole model in diffusers' layout, and give its folder."
    return f"the network of {kind} alone, without text encoders and autoencoder", remedy
