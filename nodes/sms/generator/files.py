"""Generator files: float16 safetensors that say in their header which network they hold and which style it paints.

The shipped files are what these commands write (four minutes each on one CPU core):

    regionstyle train sms-generator --style watercolor --guidance 1 --no-relevance --strength 1 --size 128 \\
        --content 3e-5 --lr 1e-3 --warm-up 50 --iterations 500 -o watercolor.safetensors
    regionstyle train sms-generator --style neon --guidance 1 --no-relevance --strength 1 --size 128 \\
        --content 1e-4 --lr 1e-3 --warm-up 50 --iterations 450 -o neon.safetensors

Watercolor recolours a photograph (held-out cat 14.0 to 20.3 dB, coffee 11.6 to 17.5 dB to the exact filter) and paints
no texture; 1200 iterations overshoot (12.1 and 13.7 dB), with --content 1e-4 600 give 18.4 and 17.4 dB. Neon darkens it
and lets edges shine (10.4 to 11.2 and 9.8 to 10.7 dB, recognised in all crops); with --content 3e-5 it comes out too
bright (10.2 and 10.1 dB).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.io.weights import WeightFile

if TYPE_CHECKING:
    from .network import Generator

FOLDER = Path(__file__).parents[1] / "weights"  # ComfyUI lists it too, so names there begin with "tinyworld/"
SHIPPED = FOLDER / "tinyworld"
KIND = "regionstyle_generator"  # the header's key; its value is the version of the layout
VERSION = "1"
LICENCE = "MIT, trained by this project on its own networks and on scikit-image's public domain photographs"
REMEDY = "Choose a file that 'regionstyle train sms-generator' or the node SMS Train Generator has written."

FILE = WeightFile("generator", KIND, VERSION, REMEDY)


@dataclass(frozen=True, eq=False)
class StyleGenerator:
    """A trained network, on the CPU until a host loads it, and the style it paints, in words."""

    network: Generator
    style: str


def bundled_generators() -> dict[str, Path]:
    """Style -> file of the generators that come with the pack."""
    return {path.stem.replace("-", " "): path for path in sorted(SHIPPED.glob("*.safetensors"))}


def save_generator(generator: StyleGenerator, path: Path, licence: str = "") -> None:
    """Write a generator in float16; half a file is never left behind. RegionStyleError for another ending."""
    header = {"architecture": generator.network.name, "style": generator.style}
    half = copy.deepcopy(generator.network).half()
    FILE.write(path, half, header | ({"licence": licence} if licence else {}))


def load_generator(path: Path) -> StyleGenerator:
    """A generator from its file, float32, in evaluation mode, frozen.

    RegionStyleError naming the file for anything that is no generator, for an architecture or a layout this version
    does not know, and for weights that do not fit.
    """
    import torch

    from .network import Generator, architecture

    if not path.is_file():
        styles = ", ".join(bundled_generators()) or "none"
        remedy = f"There is no such file; check the path. Styles that come with the pack: {styles}."
        raise wrong_input("generator", repr(str(path)), "a generator file (.safetensors)", remedy)
    header, state = FILE.read(path)
    name = header.get("architecture", "")
    try:
        architecture(name)
    except RegionStyleError as error:
        raise RegionStyleError(f"generator: {path.name}: {error} A newer version of this pack may know it.") from None
    # Weights made in ComfyUI's inference mode could not be trained further.
    with torch.inference_mode(False):
        network = Generator(name)
        FILE.fill(network, state, path)
    return StyleGenerator(network.eval().requires_grad_(False), header.get("style", ""))
