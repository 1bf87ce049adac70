"""The small harmoniser's weights: what ships with the pack, and what its training writes."""

from __future__ import annotations

from pathlib import Path

from ...engine.errors import wrong_input
from ...engine.io.weights import WeightFile
from .network import SmallHarmonizerNetwork

SHIPPED = Path(__file__).parent.parent / "weights" / "harmonizer.safetensors"
KIND, VERSION = "regionstyle_harmonizer", "1"
LICENCE = "MIT, trained by this project on the freely licensed photographs of scikit-image and scikit-learn"
REMEDY = "Choose a file that 'regionstyle train harmonizer' has written."
FILE = WeightFile("harmonizer", KIND, VERSION, REMEDY)


def save_harmonizer(network: SmallHarmonizerNetwork, path: Path) -> None:
    """Write a network in float16; half a file is never left behind."""
    import copy

    FILE.write(path, copy.deepcopy(network).half(), {"licence": LICENCE})


def load_network(path: Path | None = None) -> SmallHarmonizerNetwork:
    """A network from its file (default: the one that ships), float32, in evaluation mode, frozen."""
    import torch

    path = path or SHIPPED
    if not path.is_file():
        remedy = "Install the package again, or train it: regionstyle train harmonizer." if path == SHIPPED else REMEDY
        raise wrong_input("harmonizer", repr(str(path)), "a harmoniser's file (.safetensors)", remedy)
    _, state = FILE.read(path)
    with torch.inference_mode(False):
        network = SmallHarmonizerNetwork()
        FILE.fill(network, state, path)
    return network.eval().requires_grad_(False)
