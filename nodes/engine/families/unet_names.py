"""Names of modules in Stable Diffusion class U-Nets: the diffusers path is the pack's own name for a layer.

ComfyUI (and the original code, "ldm") number the blocks of the encoder and decoder through; diffusers groups them by
resolution. Which number lies at which resolution follows from how many residual blocks each resolution has, and that
is read from the network's own module names, or guessed from the names in a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from torch import nn

from ..errors import RegionStyleError, wrong_input
from .dotted_names import dotted, name_pattern

_ANY_DEPTH = 8
# Inside a residual block: ldm name -> diffusers name.
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_BASIC = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
# Every name between two dots; kohya files replace the dots by underscores, which some of the names contain.
_WORDS = """
    down_blocks up_blocks mid_block resnets attentions transformer_blocks downsamplers upsamplers attn1 attn2 to_q to_k
    to_v to_out ff net proj proj_in proj_out conv conv1 conv2 conv_in conv_out conv_shortcut time_emb_proj
    time_embedding add_embedding linear_1 linear_2 input_blocks middle_block output_blocks in_layers out_layers
    emb_layers skip_connection op time_embed label_emb out
""".split()  # noqa: SIM905
_PATTERN = name_pattern(_WORDS)
_ROOTS = {"down_blocks", "up_blocks", "mid_block", "input_blocks", "middle_block", "output_blocks"} | {
    name.split(".")[0] for name in (*_BASIC, *_BASIC.values())
}


def is_ldm_name(name: str) -> bool:
    """Whether a dotted name is ComfyUI's."""
    return name in _BASIC or name.split(".")[0] in ("input_blocks", "middle_block", "output_blocks")


def with_dots(name: str) -> str | None:
    """The dotted form of a name written with underscores, of either kind; None for names no U-Net here has."""
    name_with_dots = dotted(name, _PATTERN)
    return name_with_dots if name_with_dots and name_with_dots.split(".")[0] in _ROOTS else None


def to_diffusers(name: str, resnets: Callable[[int], int]) -> str | None:
    """The diffusers path of a dotted ldm name; None for names without a counterpart.

    resnets(level): residual blocks at resolution `level` of the encoder, counted from the largest; raises or returns
    0 beyond the last one.
    """
    if name in _BASIC:
        return _BASIC[name]
    part, *rest = name.split(".", 2)
    if part == "middle_block" and rest and rest[0] in ("0", "1", "2") and len(rest) == 2:
        home = "mid_block.attentions.0" if rest[0] == "1" else f"mid_block.resnets.{int(rest[0]) // 2}"
        return _inside(home, rest[1])
    if part not in ("input_blocks", "output_blocks") or len(rest) < 2 or not rest[0].isdigit():
        return None
    position, inner = rest[1].partition(".")[::2]
    path_of = _encoder_path if part == "input_blocks" else _decoder_path
    return path_of(int(rest[0]), position, inner, resnets)


def _encoder_path(block: int, position: str, inner: str, resnets: Callable[[int], int]) -> str | None:
    """Resolution by resolution: its residual blocks, then one block that halves the size."""
    level, index = 0, block - 1
    while count := resnets(level):
        if index < count:
            kind = "resnets" if position == "0" else "attentions"
            return None if inner == "op" else _inside(f"down_blocks.{level}.{kind}.{index}", inner)
        if index == count:
            return f"down_blocks.{level}.downsamplers.0.conv" if (position, inner) == ("0", "op") else None
        level, index = level + 1, index - count - 1
    return None


def _decoder_path(block: int, position: str, inner: str, resnets: Callable[[int], int]) -> str | None:
    """From the smallest resolution up, one residual block more each than the encoder has."""
    counts = _all_levels(resnets)
    for level, count in enumerate(reversed(counts)):
        if block <= count:
            if inner == "conv" and position != "0":
                return f"up_blocks.{level}.upsamplers.0.conv" if block == count else None
            kind = "resnets" if position == "0" else "attentions"
            return _inside(f"up_blocks.{level}.{kind}.{block}", inner)
        block -= count + 1
    return None


def _all_levels(resnets: Callable[[int], int]) -> list[int]:
    counts: list[int] = []
    while count := resnets(len(counts)):
        counts.append(count)
    return counts


def _inside(home: str, inner: str) -> str | None:
    """The name inside a residual block or a transformer; the latter are the same in both."""
    if ".resnets." in home:
        return f"{home}.{_RESNET[inner]}" if inner in _RESNET else None
    return f"{home}.{inner}" if inner.split(".")[0] in ("norm", "proj_in", "proj_out", "transformer_blocks") else None


def counts_of_ldm(names: Iterable[str]) -> list[int]:
    """Residual blocks per resolution, from all module names of an ldm network."""
    names = set(names)
    blocks = {int(match[1]) for name in names if (match := re.match(r"input_blocks\.(\d+)\.", name))}
    halvings = sorted(block for block in blocks if f"input_blocks.{block}.0.op" in names)
    edges = [0, *halvings, max(blocks) + 1]
    return [after - before - 1 for before, after in zip(edges, edges[1:], strict=False)]


def counts_of_diffusers(names: Iterable[str]) -> list[int]:
    """Residual blocks per resolution, from all module names of a diffusers network."""
    pattern = re.compile(r"down_blocks\.(\d+)\.resnets\.(\d+)$")
    resnets = {(int(match[1]), int(match[2])) for name in names if (match := pattern.match(name))}
    return [sum(level == block for block, _ in resnets) for level in range(len({block for block, _ in resnets}))]


def table_lookup(counts: list[int]) -> Callable[[int], int]:
    """counts as the function that `to_diffusers` asks."""
    return lambda level: counts[level] if level < len(counts) else 0


def unet_paths(network: nn.Module) -> dict[str, str]:
    """Diffusers path -> path in this network, for every module of a Stable Diffusion class U-Net.

    RegionStyleError for any other network.
    """
    names = [name for name, _ in network.named_modules() if name]
    if hasattr(network, "down_blocks") and hasattr(network, "up_blocks"):
        return {name: name for name in names}
    if not (hasattr(network, "input_blocks") and hasattr(network, "output_blocks")):
        accepts = "a U-Net with down_blocks and up_blocks, or input_blocks and output_blocks"
        raise wrong_input("network", type(network).__name__, accepts, "Load a Stable Diffusion class model.")
    resnets = table_lookup(counts_of_ldm(names))
    return {path: name for name in names if (path := to_diffusers(name, resnets)) is not None}


def has_time_axis(network: nn.Module) -> bool:
    """Whether a U-Net is one for video: it has layers whose rows are frames instead of image tokens."""
    return any(
        isinstance(module, nn.Conv3d) or name.endswith("motion_modules") for name, module in network.named_modules()
    )


def counts_of_network(network: nn.Module) -> list[int]:
    """Residual blocks per resolution of a Stable Diffusion class U-Net of either host."""
    names = [name for name, _ in network.named_modules()]
    return counts_of_diffusers(names) if hasattr(network, "down_blocks") else counts_of_ldm(names)


def guess_counts(names: list[str]) -> list[int]:
    """Residual blocks per resolution that place every one of these ldm names: SD1, SD2 and SDXL have two each.

    How many resolutions there are does not matter, since all have the same count. RegionStyleError when no count
    fits; the caller can then name the network the file was made for.
    """
    for count in (2, 1, 3):
        counts = [count] * _ANY_DEPTH
        if all(to_diffusers(name, table_lookup(counts)) for name in names):
            return counts
    raise RegionStyleError(
        f"LoRA file: got {len(names)} layers with ComfyUI's own names ({names[0]}, ...), expected those of a U-Net "
        "with 1, 2 or 3 blocks per resolution. Pass the network it was made for: load_expert(..., network=network)."
    )
