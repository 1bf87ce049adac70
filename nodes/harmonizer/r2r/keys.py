"""Names of R2R's tensors: the original code's ("ldm") and diffusers', which are the pack's own.

A file is split by prefix into parts: "vae", "unet", "controller", "text". Names of earlier versions and 1 x 1
convolutions in the place of linear layers are read too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from ...engine.families.unet_names import _RESNET, table_lookup, to_diffusers

PARTS = ("vae", "unet", "controller", "text")
LEVELS, RESNETS = 4, 2
LDM_PREFIX = {
    "unet": "model.diffusion_model.",
    "controller": "control_model.",
    "vae": "first_stage_model.",
    "text": "cond_stage_model.transformer.",
}
_LIGHTNING_VAE = "model."  # of a checkpoint of the Clear-VAE's own training
_VAE_ROOTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "filters.")
# Noise schedules, moving averages, the loss's own network, and layers that an earlier version had.
_IGNORED = re.compile(
    r"(model_ema|cr_loss|perceptual_loss|loss|cond_stage_model)\.|(model\.)?skip_conv\.|"
    r"(first_stage_model\.|model\.)?(skip_conv|decoder\.mid_skip_conv)\.|"
    r"(model\.diffusion_model\.)?skip_connect\.|"
    r"(betas|alphas_cumprod\w*|sqrt_\w+|log_one_minus\w*|posterior_\w+|lvlb_weights|logvar|scale_factor)$"
)
_HINT = {0: "conv_in", 14: "conv_out"} | {2 * n: f"blocks.{n - 1}" for n in range(1, 7)}
_VAE_INSIDE = (
    ("nin_shortcut.", "conv_shortcut."),
    ("lora.conv.", "skip_connect.conv."),
)
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def split(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Part -> its tensors with diffusers' names; what belongs to none is under "": unknown names, as they stand."""
    parts: dict[str, dict[str, Tensor]] = {}
    alone = _part_without_prefix(state)
    for name, tensor in state.items():
        part, inner = _part_of(name, alone)
        if part is not None:
            translated, value = diffusers_tensor(part, inner, tensor)
            parts.setdefault(part, {})[translated] = value
        elif not _IGNORED.match(name):
            parts.setdefault("", {})[name] = tensor
    return parts


def _part_of(name: str, alone: str | None) -> tuple[str | None, str]:
    for part, prefix in LDM_PREFIX.items():
        if name.startswith(prefix):
            inner = name.removeprefix(prefix)
            return (None, name) if _IGNORED.match(name) and part != "text" else (part, inner)
    if _IGNORED.match(name):
        return None, name
    if name.startswith(tuple(_LIGHTNING_VAE + root for root in _VAE_ROOTS)):
        return "vae", name.removeprefix(_LIGHTNING_VAE)
    return (alone, name) if alone is not None else (None, name)


def _part_without_prefix(names: Iterable[str]) -> str | None:
    """The part that a file without prefixes holds, by names that only this part has."""
    names = list(names)
    if any(name.startswith((*LDM_PREFIX.values(), *(_LIGHTNING_VAE + r for r in _VAE_ROOTS))) for name in names):
        return None
    signs = {
        "controller": ("input_hint_block.", "controlnet_cond_embedding.", "zero_convs."),
        "vae": _VAE_ROOTS,
        "unet": ("up_blocks.", "output_blocks."),
        "text": ("text_model.",),
    }
    return next((part for part, roots in signs.items() if any(name.startswith(roots) for name in names)), None)


def diffusers_tensor(part: str, name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A tensor of a part under diffusers' name and in its shape; unknown names stay as they are."""
    if part == "vae":
        name = _vae_name(name)
        linear = re.search(r"mid_block\.attentions\.0\.to_\w+(\.0)?\.weight$", name)
        return name, tensor[:, :, 0, 0] if linear and tensor.ndim == 4 else tensor
    if part in ("unet", "controller"):
        return _denoiser_name(name), tensor
    return name.removeprefix("text_model."), tensor


def _vae_name(name: str) -> str:
    for old, new in _VAE_INSIDE:
        name = name.replace(old, new)
    name = re.sub(
        r"^(encoder|decoder)\.mid\.block_(\d)\.", lambda m: f"{m[1]}.mid_block.resnets.{int(m[2]) - 1}.", name
    )
    name = re.sub(
        r"^(encoder|decoder)\.mid\.attn_1\.(\w+)\.",
        lambda m: f"{m[1]}.mid_block.attentions.0.{_ATTENTION.get(m[2], m[2])}.",
        name,
    )
    name = re.sub(r"(mid_block\.attentions\.0\.)(\w+)\.", lambda m: m[1] + _OLD_ATTENTION.get(m[2], m[2]) + ".", name)
    name = re.sub(r"^encoder\.down\.(\d)\.block\.(\d)\.", r"encoder.down_blocks.\1.resnets.\2.", name)
    name = re.sub(r"^encoder\.down\.(\d)\.downsample\.conv\.", r"encoder.down_blocks.\1.downsamplers.0.conv.", name)
    name = re.sub(
        r"^decoder\.up\.(\d)\.block\.(\d)\.", lambda m: f"decoder.up_blocks.{_mirrored(m[1])}.resnets.{m[2]}.", name
    )
    name = re.sub(
        r"^decoder\.up\.(\d)\.upsample\.conv\.",
        lambda m: f"decoder.up_blocks.{_mirrored(m[1])}.upsamplers.0.conv.",
        name,
    )
    return re.sub(r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out.", name)


def _mirrored(level: str) -> int:
    return LEVELS - 1 - int(level)


def _denoiser_name(name: str) -> str:
    if found := re.fullmatch(r"input_hint_block\.(\d+)\.(weight|bias)", name):
        inner = _HINT.get(int(found[1]))
        return name if inner is None else f"controlnet_cond_embedding.{inner}.{found[2]}"
    if found := re.fullmatch(r"zero_convs\.(\d+)\.0\.(weight|bias)", name):
        return f"controlnet_down_blocks.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"middle_block_out\.0\.(weight|bias)", name):
        return f"controlnet_mid_block.{found[1]}"
    module, _, kind = name.rpartition(".")
    path = to_diffusers(module, table_lookup([RESNETS] * LEVELS))
    return name if path is None else f"{path}.{kind}"


def to_ldm(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The parts as one state of the original layout, prefixes included: the inverse of `split`.

    The VAE's attention weights become 1 x 1 convolutions again.
    """
    state: dict[str, Tensor] = {}
    for part, tensors in parts.items():
        name_of = _ldm_names(part, tensors)
        for name, tensor in tensors.items():
            shaped = tensor[:, :, None, None] if part == "vae" and _is_vae_attention(name) else tensor
            state[LDM_PREFIX[part] + name_of(name)] = shaped
    return state


def _is_vae_attention(name: str) -> bool:
    return bool(re.search(r"mid_block\.attentions\.0\.to_\w+(\.0)?\.weight$", name))


def _ldm_names(part: str, names: Iterable[str]) -> Callable[[str], str]:
    """The original name of a diffusers name, found among all that the original code could have."""
    if part == "text":
        return lambda name: f"text_model.{name}"
    names = list(names)
    candidates = _vae_candidates(names) if part == "vae" else _denoiser_candidates(names)
    translate = _vae_name if part == "vae" else _denoiser_name
    table = {translate(name): name for name in candidates}
    return lambda name: table.get(name, name)


_KINDS = ("weight", "bias")


def _vae_candidates(names: list[str]) -> list[str]:
    resnet = ("norm1", "conv1", "norm2", "conv2", "nin_shortcut", "lora.conv")
    homes = [f"encoder.down.{level}.block.{j}" for level in range(LEVELS) for j in range(RESNETS)]
    homes += [f"decoder.up.{level}.block.{j}" for level in range(LEVELS) for j in range(RESNETS + 1)]
    homes += [f"{side}.mid.block_{j}" for side in ("encoder", "decoder") for j in (1, 2)]
    modules = [f"{home}.{inner}" for home in homes for inner in resnet]
    modules += [f"encoder.down.{level}.downsample.conv" for level in range(LEVELS)]
    modules += [f"decoder.up.{level}.upsample.conv" for level in range(LEVELS)]
    modules += [f"{side}.mid.attn_1.{inner}" for side in ("encoder", "decoder") for inner in _ATTENTION]
    modules += [f"{side}.norm_out" for side in ("encoder", "decoder")]
    return [f"{module}.{kind}" for module in modules for kind in _KINDS]


def _denoiser_candidates(names: list[str]) -> list[str]:
    inside = {m[1] for name in names if (m := re.search(r"attentions\.\d+\.(.+)\.(?:weight|bias)$", name))}
    inside |= {*_RESNET, "op", "conv"}
    blocks = [f"{side}_blocks.{i}.{p}" for side in ("input", "output") for i in range(3 * LEVELS) for p in range(3)]
    blocks += [f"middle_block.{p}" for p in range(3)]
    modules = [f"{block}.{inner}" for block in blocks for inner in inside]
    modules += ["time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2", "middle_block_out.0"]
    modules += [f"input_hint_block.{n}" for n in _HINT] + [f"zero_convs.{i}.0" for i in range(3 * LEVELS)]
    return [f"{module}.{kind}" for module in modules for kind in _KINDS]
