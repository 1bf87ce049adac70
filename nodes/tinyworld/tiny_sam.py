"""The tiny world's Segment Anything: the real network's parts at a size that trains on a CPU and ships in the pack.

128 px pictures, a grid of 16 x 16 patches, 1.2 million parameters, box and point prompts, three masks and one.
"""

from __future__ import annotations

from typing import Any

from ..engine.sam_network import SamConfig, new_sam, sam_from_state
from .bundled import FOLDER, read
from .world import SIZE

CONFIG = SamConfig(
    image_size=SIZE,
    patch=8,
    width=128,
    depth=4,
    heads=4,
    mlp_ratio=3.0,
    window=0,
    global_blocks=(0, 1, 2, 3),
    prompt_width=96,
    mask_channels=16,
    decoder_mlp=256,
    iou_width=96,
)
SAMS = FOLDER / "sams"  # for ComfyUI's list of SAM files, so that the name there begins with "tinyworld/"
FILE = "sams/tinyworld/sam"  # as `shipped.read` and `shipped.write` name it


def new_tiny_sam() -> Any:
    """A randomly initialised network of the tiny size, in evaluation mode."""
    return new_sam(CONFIG)


def load_tiny_sam() -> Any:
    """The shipped network, float32, frozen. RegionStyleError when the installation lacks its file."""
    return sam_from_state(read(FILE), f"{FILE}.safetensors")
