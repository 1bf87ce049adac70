"""Generator files: float16 safetensors that say in their header which network they hold and which style it paints.

The shipped file is what this command writes (four minutes on one CPU core):

    regionstyle train sms-generator --style watercolor --guidance 1 --no-relevance --strength 1 --size 128 \\
        --content 3e-5 --lr 1e-3 --warm-up 50 --iterations 500 -o watercolor.safetensors

It recolours a photograph towards the style (held-out cat 14.0 to 20.3 dB, coffee 11.6 to 17.5 dB to the exact filter)
and paints no texture. 1200 iterations overshoot (12.1 and 13.7 dB), with --content 1e-4 600 give 18.4 and 17.4 dB.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.errors import RegionStyleError, wrong_input

if TYPE_CHECKING:
    from torch import Tensor

    from .generator import Generator

FOLDER = Path(__file__).parent / "weights"  # ComfyUI lists it too, so names there begin with "tinyworld/"
SHIPPED = FOLDER / "tinyworld"
KIND = "regionstyle_generator"  # the header's key; its value is the version of the layout
VERSION = "1"
LICENCE = "MIT, trained by this project on its own networks and on scikit-image's public domain photographs"
REMEDY = "Choose a file that 'regionstyle train sms-generator' or the node SMS Train Generator has written."


@dataclass(frozen=True, eq=False)
class StyleGenerator:
    """A trained network, on the CPU until a host loads it, and the style it paints, in words."""

    network: Generator
    style: str


def shipped_generators() -> dict[str, Path]:
    """Style -> file of the generators that come with the pack."""
    return {path.stem.replace("-", " "): path for path in sorted(SHIPPED.glob("*.safetensors"))}


def save_generator(generator: StyleGenerator, path: Path, licence: str = "") -> None:
    """Write a generator in float16; half a file is never left behind. RegionStyleError for another ending."""
    import torch
    from safetensors.torch import save_file

    if path.suffix != ".safetensors":
        raise wrong_input("output", path.name, "a name ending in .safetensors", "Change the name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in generator.network.state_dict().items()}
    header = {"format": "pt", KIND: VERSION, "architecture": generator.network.name, "style": generator.style}
    part = path.with_suffix(".part")
    save_file(half, part, metadata=header | ({"licence": licence} if licence else {}))
    part.chmod(0o644)  # safetensors writes files for the owner only
    os.replace(part, path)


def load_generator(path: Path) -> StyleGenerator:
    """A generator from its file, float32, in evaluation mode, frozen.

    RegionStyleError naming the file for anything that is no generator, for an architecture or a layout this version
    does not know, and for weights that do not fit.
    """
    import torch

    from .generator import Generator, architecture

    header, state = _read(path)
    if header.get(KIND) != VERSION:
        got = f"{path.name} of layout {header[KIND]!r}" if KIND in header else f"{path.name}, which is no generator"
        raise wrong_input("generator", got, f"a generator of layout {VERSION}", REMEDY)
    name = header.get("architecture", "")
    try:
        architecture(name)
    except RegionStyleError as error:
        raise RegionStyleError(f"generator: {path.name}: {error} A newer version of this pack may know it.") from None
    # Weights made in ComfyUI's inference mode could not be trained further.
    with torch.inference_mode(False):
        network = Generator(name)
        _check(path, network.state_dict(), state)
        network.load_state_dict({key: value.float() for key, value in state.items()})
    return StyleGenerator(network.eval().requires_grad_(False), header.get("style", ""))


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        styles = ", ".join(shipped_generators()) or "none"
        remedy = f"There is no such file; check the path. Styles that come with the pack: {styles}."
        raise wrong_input("generator", repr(str(path)), "a generator file (.safetensors)", remedy)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        got = f"{path.name} ({type(error).__name__})"
        raise wrong_input("generator", got, "a safetensors file", REMEDY) from error


def _check(path: Path, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """RegionStyleError naming the first tensors that are missing, unknown or of another shape."""
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    misfits = [
        f"{key} {list(state[key].shape)} instead of {list(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    faults = {"without": missing, "with unknown": unknown, "with": misfits}
    said = "; ".join(f"{how} {', '.join(names[:3])}" for how, names in faults.items() if names)
    if said:
        raise wrong_input("generator", f"{path.name} {said}", "the tensors of its architecture", REMEDY)
