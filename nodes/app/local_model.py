"""The model behind the command line and the Python API: the tiny world, or the user's own folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.errors import wrong_input
from ..router.restyle import RestyleSettings
from ..tinyworld.bundled import (
    RESTYLE,
    STRENGTHS,
    USUAL_STRENGTH,
    expert_files,
    in_tiles,
    load_bundled_expert,
    load_predictor,
)

TINY = "tinyworld"


@dataclass(frozen=True)
class LocalModel:
    """predictor: with its experts attached, all off until a gate opens them; tiny: whether it is the tiny world."""

    predictor: Any
    tiny: bool

    def usual(self, style: str) -> RestyleSettings:
        """The settings a style is restyled with where nothing else is chosen."""
        from .models import folder_settings

        return tiny_settings(style) if self.tiny else folder_settings(self.predictor)[0]

    def usual_in_tiles(self, style: str) -> RestyleSettings:
        """The same for regions that are painted in tiles at the picture's own size."""
        return tiny_settings_in_tiles(style) if self.tiny else self.usual(style)


def tiny_settings(style: str, **chosen: Any) -> RestyleSettings:
    """The tiny world's settings for a style; whatever is chosen replaces them."""
    return RestyleSettings(**{**RESTYLE, "strength": STRENGTHS.get(style, USUAL_STRENGTH), **chosen})


def tiny_settings_in_tiles(style: str) -> RestyleSettings:
    """The tiny world's settings for a style on tiles of photographs."""
    return RestyleSettings(**{**RESTYLE, **in_tiles(style)})


def known_styles(model: str) -> list[str] | None:
    """The styles a model has experts for; None where any words are a style."""
    return list(expert_files()) if model == TINY else None


def check_device(device: Any) -> None:
    """RegionStyleError unless torch can use a device here; None, the best there is, always fits."""
    import torch

    if device is None:
        return
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        remedy = "Leave it out for the best there is."
        raise wrong_input("--device", repr(device), "cpu or cuda", remedy) from None
    if kind == "cuda" and not torch.cuda.is_available():
        remedy = "Use --device cpu, or install a CUDA driver and a CUDA build of torch."
        raise wrong_input("--device", device, "cpu, because torch finds no CUDA device here", remedy)


def check_expert(model: str, expert: Path | None) -> None:
    """RegionStyleError for a LoRA with the tiny world."""
    if expert is not None and model == TINY:
        accepts, remedy = "it with --model FOLDER", "The tiny world brings its own experts; leave --expert out."
        raise wrong_input("--expert", "a file with the tiny world", accepts, remedy)


def open_model(model: str, host: Any, *, styles: Sequence[str] = (), expert: Path | None = None) -> LocalModel:
    """The tiny world with its experts for some styles, or a folder in diffusers' layout with a style LoRA.

    RegionStyleError for a folder that is no such model, and for a LoRA with the tiny world.
    """
    check_expert(model, expert)
    if model == TINY:
        return LocalModel(load_predictor(host, [load_bundled_expert(style) for style in dict.fromkeys(styles)]), True)
    from .models import load_folder

    return LocalModel(load_folder(Path(model), expert, host), False)
