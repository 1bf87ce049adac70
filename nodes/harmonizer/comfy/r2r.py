"""R2R in ComfyUI: where its files are, loading them, and its Clear-VAE on ComfyUI's latents."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.host.comfy import ComfyHost
from ...engine.io.comfy_files import files_mark
from ...engine.io.comfy_tensors import image_of, images_of
from ..r2r.decode import decode_with_detail
from ..r2r.files import FOLDERS, PUBLIC, load_r2r
from ..r2r.pipeline import R2RHarmonizer
from ..r2r.settings import R2RSettings
from ..r2r.weights import ENDINGS

KIND = "regionstyle_r2r"  # folder below models/


def register_folder() -> None:
    """Add models/regionstyle_r2r to the folders ComfyUI knows."""
    import folder_paths

    folder_paths.add_model_folder_path(KIND, str(Path(folder_paths.models_dir) / KIND))


def choices() -> list[str]:
    """Folders and checkpoints in models/regionstyle_r2r; never empty."""
    import folder_paths

    roots = [Path(root) for root in folder_paths.get_folder_paths(KIND) if Path(root).is_dir()]
    names = [place.name for root in roots for place in sorted(root.iterdir()) if _holds_weights(place)]
    return list(dict.fromkeys(names)) or [f"put R2R's folder into models/{KIND}"]


def _holds_weights(place: Path) -> bool:
    if place.is_file():
        return place.suffix in ENDINGS
    return any((place / name).is_dir() for name in FOLDERS.values()) or any(
        file.suffix in ENDINGS for file in place.iterdir()
    )


def find(name: str) -> Path:
    """Where a folder or checkpoint lies. RegionStyleError naming the places and the public files when it is absent."""
    import folder_paths

    roots = [Path(root) for root in folder_paths.get_folder_paths(KIND)]
    for root in roots:
        place = (root / name).resolve()
        if name.strip() and root.resolve() in place.parents and place.exists():
            return place
    where = " or ".join(str(root) for root in roots)
    raise wrong_input("folder", repr(name), f"a folder or checkpoint in {where}", f"Put it there. Public: {PUBLIC}.")


def mark(name: str | None) -> str:
    """Changes with the files of a folder, of which ComfyUI sees the name only."""
    try:
        place = find(name or "")
    except ValueError:
        return ""
    return files_mark(sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place])


def load(name: str, settings: R2RSettings) -> tuple[R2RHarmonizer, str]:
    """The harmoniser of a folder in the number formats ComfyUI would choose, and what to say of it."""
    host = ComfyHost()
    networks = load_r2r(find(name), unet_dtype=_computable(host.dtype("unet")), vae_dtype=host.dtype("vae"))
    parts = (networks.vae, networks.unet, networks.controller)
    count = sum(parameter.numel() for part in parts if part is not None for parameter in part.parameters())
    return R2RHarmonizer(networks, host, settings), f"{name}: {count / 1e6:.0f} million parameters"


def _computable(dtype: torch.dtype) -> torch.dtype:
    """Kinds of 8 bits, which diffusers' layers cannot compute in, become bfloat16."""
    return dtype if dtype in (torch.float32, torch.float16, torch.bfloat16) else torch.bfloat16


def decode(harmonizer: R2RHarmonizer, latent: dict[str, Tensor], image: Tensor) -> Tensor:
    """A LATENT with the detail of an IMAGE, as an IMAGE."""
    samples = latent["samples"] if isinstance(latent, dict) and isinstance(latent.get("samples"), Tensor) else None
    if samples is None or samples.ndim != 4:
        got = "no samples" if samples is None else f"samples {list(samples.shape)}"
        raise wrong_input("latent", got, "a LATENT of pictures, [B,4,h,w]", "Connect a latent output.")
    vae, host = harmonizer.networks.vae, ComfyHost()
    return image_of(decode_with_detail(vae, samples, images_of(image), host, tile=harmonizer.settings.tile))
