"""RegionRoute's published experts: four FLUX.1-Kontext LoRAs whose names, counts and shapes are known.

RegionRoute (its published code and files): rank 4 on every `to_q`, `to_k`, `to_v`, `to_out.0` of the transformer, so 4
layers in each of 19 blocks with two streams and 3 in each of 38 with one: 190 layers, 380 tensors, no alpha. A file
that was cut short on its way would otherwise pass as a LoRA for fewer layers, and style less without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine.errors import wrong_input
from ..engine.lora.expert import Expert
from ..engine.lora.load import load_expert

STYLES = ("cyberpunk", "expressionism", "line-art", "pixel-art")  # file names, and the words they were trained with
RANK, WIDTH = 4, 3072


def published_layers() -> list[str]:
    """The 190 layers of a published expert, by diffusers path."""
    double = [f"transformer_blocks.{i}.attn.{part}" for i in range(19) for part in ("to_q", "to_k", "to_v", "to_out.0")]
    return double + [
        f"single_transformer_blocks.{j}.attn.{part}" for j in range(38) for part in ("to_q", "to_k", "to_v")
    ]


def load_style_expert(source: Path, **options: Any) -> Expert:
    """`load_expert`, and for a file named and made like a published one the check that it is whole.

    RegionStyleError with the counts and the first layers at fault.
    """
    expert = load_expert(source, **options)
    if not is_published(Path(source).stem, expert):
        return expert
    check_published(Path(source).name, expert)
    return replace(expert, style=expert.style or Path(source).stem)


def is_published(stem: str, expert: Expert) -> bool:
    """Whether a file claims to be one of the four: its name, layers of these kinds only, and their rank in most."""
    kinds = {path.split(".")[0] + path.split(".attn")[-1] for path in published_layers()}
    same = all(path.split(".")[0] + path.split(".attn")[-1] in kinds for path in expert.layers)
    ranks = [layer.rank for layer in expert.layers.values()]
    return stem in STYLES and same and 2 * ranks.count(RANK) > len(ranks)


def check_published(name: str, expert: Expert) -> None:
    """RegionStyleError unless an expert has exactly the published layers, in their shapes, at scale 1."""
    wanted = published_layers()
    missing, more = [p for p in wanted if p not in expert.layers], [p for p in expert.layers if p not in set(wanted)]
    faults = {"without": missing, "with unknown": more, "misshapen": _misshapen(expert.layers)}
    if said := [f"{how} {', '.join(keys[:3])} ({len(keys)} such)" for how, keys in faults.items() if keys]:
        got = f"{2 * len(expert.layers)} tensors, {'; '.join(said)}"
        accepts = f"{2 * len(wanted)} tensors of rank {RANK} and width {WIDTH} at scale 1, as RegionRoute published it"
        raise wrong_input(f"LoRA file {name}", got, accepts, "Download it again, or rename it if it is another LoRA.")


def _misshapen(layers: Mapping[str, Any]) -> list[str]:
    def fits(layer: Any) -> bool:
        return layer.down.shape == (RANK, WIDTH) and layer.up.shape == (WIDTH, RANK) and layer.scale == 1

    return [
        f"{path} {list(layer.down.shape)} and {list(layer.up.shape)}, scale {layer.scale:g}"
        for path, layer in layers.items()
        if not fits(layer)
    ]
