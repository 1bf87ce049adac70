"""The user's own model on the command line: a folder in diffusers' layout, with a style LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..engine.errors import RegionStyleError

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def load_folder(folder: Path, expert: Path | None, host: Any) -> Any:
    """A predictor over an SD1.5- or SDXL-class folder (`model_index.json` with its parts), an expert attached if given.

    Only safetensors files are read. RegionStyleError naming the folder and what it lacks.
    """
    _check_folder(folder)
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from ..engine.diffusers_predictor import DiffusersPredictor

    options = {"use_safetensors": True, "local_files_only": True}
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=host.dtype("unet"), **options)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=host.dtype("vae"), **options)
    encoders, tokenizers = _text_parts(folder, {**options, "torch_dtype": host.dtype("text")})
    schedule = DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    stack = _stack(unet, expert)
    for module in (unet, vae, *encoders):
        module.eval().requires_grad_(False)
    return DiffusersPredictor(unet, vae, encoders, tokenizers, schedule, host, stack)


def _text_parts(folder: Path, options: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Text encoders and tokenizers: CLIP, and for SDXL its second one."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    kinds = {"": CLIPTextModel, "_2": CLIPTextModelWithProjection}
    ends = [end for end in kinds if (folder / f"text_encoder{end}").is_dir()]
    encoders = [kinds[end].from_pretrained(folder / f"text_encoder{end}", **options) for end in ends]
    return encoders, [CLIPTokenizer.from_pretrained(folder / f"tokenizer{end}", local_files_only=True) for end in ends]


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise RegionStyleError(
            f"--model: got {str(folder)!r}, expected 'tinyworld' or a folder with an SD1.5-class model "
            "in diffusers layout. There is no such folder; check the path."
        )
    lacking = [part for part in PARTS if not (folder / part).is_dir()]
    if lacking:
        raise RegionStyleError(
            f"--model: the folder {str(folder)!r} has no {', '.join(lacking)}, expected "
            f"{', '.join(PARTS)} (diffusers layout). Convert the checkpoint, or choose another folder."
        )
    if not any((folder / "unet").glob("*.safetensors")):
        raise RegionStyleError(
            f"--model: {str(folder / 'unet')!r} holds no .safetensors file; other formats are not "
            "loaded. Convert the weights to safetensors."
        )


def _stack(unet: Any, expert: Path | None) -> Any:
    if expert is None:
        return None
    from ..engine.adapter_files import load_expert
    from ..engine.adapters import ExpertStack

    if not expert.is_file():
        raise RegionStyleError(
            f"--expert: got {str(expert)!r}, expected a LoRA file (.safetensors). There is no such "
            "file; check the path."
        )
    stack = ExpertStack(unet, [load_expert(expert, ignore_text_encoder=True)])
    stack.attach()
    return stack
