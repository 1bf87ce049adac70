"""Files of learnt gates: weights, the experts' names in order, and the sizes, in one safetensors file.

The shipped file, for the tiny world's seven styles, is what `regionstyle train gate -o tinyworld.safetensors` writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.io.weights import WeightFile
from .learnt_gate import GateShape, LearntGate

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).parents[1] / "weights"  # ComfyUI lists it too, so names there begin with "tinyworld/"
SHIPPED = FOLDER / "tinyworld" / "styles.safetensors"
REMEDY = "Choose a file that 'regionstyle train gate' has written."
FILE = WeightFile("learnt gate", "regionstyle_gate", "1", REMEDY)


def save_gate(gate: LearntGate, path: Path, licence: str = "") -> None:
    """Write a gate. RegionStyleError for a name that does not end in .safetensors."""
    header = {"experts": json.dumps(gate.experts), "shape": json.dumps(asdict(gate.shape))}
    FILE.write(path, gate, header | ({"licence": licence} if licence else {}))


def load_gate(path: Path) -> LearntGate:
    """A gate from its file, frozen, in evaluation mode.

    RegionStyleError naming the file for anything that is no gate, a header that cannot be read, and tensors whose
    count or shapes do not fit its experts and sizes.
    """
    import torch

    header, state = FILE.read(path)
    experts, shape = _told(header, path)
    _check_sizes(shape, state, path)
    with torch.inference_mode(False):
        try:
            gate = LearntGate(experts, shape)
        except RegionStyleError as error:
            raise RegionStyleError(f"learnt gate: {path.name}: {error} {REMEDY}") from error
        FILE.fill(gate, state, path)
    return gate.eval().requires_grad_(False)


def _told(header: dict[str, str], path: Path) -> tuple[list[str], GateShape]:
    """Experts and sizes as the header says them."""
    try:
        experts, sizes = json.loads(header["experts"]), json.loads(header["shape"])
        known = {field.name for field in fields(GateShape)}
        if not all(isinstance(name, str) for name in experts) or set(sizes) != known:
            raise ValueError(f"experts {experts!r} and sizes {sizes!r}")
        return experts, GateShape(**{name: int(size) for name, size in sizes.items()})
    except (KeyError, ValueError, TypeError, RecursionError, OverflowError) as error:
        got = f"{path.name}, whose header cannot be read ({error})"
        raise wrong_input("learnt gate", got, "names of experts and sizes", REMEDY) from error


def _check_sizes(shape: GateShape, state: Mapping[str, Tensor], path: Path) -> None:
    """RegionStyleError, before a network of them is made, for sizes that the tensors there do not have."""
    layers = {key.split(".")[1] for key in state if key.startswith("reader.")}
    words, pooled = state.get("words.weight"), state.get("pooled.weight")
    there = {
        "layers": len(layers),
        "width, text": None if words is None else list(words.shape),
        "width, pooled": [shape.width, 0] if pooled is None else list(pooled.shape),
    }
    said = {
        "layers": shape.layers,
        "width, text": [shape.width, shape.text],
        "width, pooled": [shape.width, shape.pooled],
    }
    wrong = [
        f"{name} {said[name]} in its header and {there[name]} in its tensors"
        for name in said
        if said[name] != there[name]
    ]
    if wrong:
        raise wrong_input("learnt gate", f"{path.name} with {'; '.join(wrong)}", "the same in both", REMEDY)
