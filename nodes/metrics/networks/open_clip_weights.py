"""CLIP weights in the layout of OpenAI and open_clip, as HPS v2 is published, in a CLIP of `transformers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import wrong_input

_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_WHOLE = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # transformers spells it so
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_PROJECTIONS = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}


def converted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under transformers' names. RegionStyleError for a key that neither layout has."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in _WHOLE:
            renamed[_WHOLE[key]] = value
        elif key in _PROJECTIONS:
            renamed[_PROJECTIONS[key]] = value.T.contiguous()
        elif "transformer.resblocks." in key:
            renamed.update(_block(key, value))
        elif key != "attn_mask":  # a constant that old files hold
            raise wrong_input("weights", f"the key {key!r}", "a CLIP in open_clip's layout", "Use the published file.")
    return renamed


def _block(key: str, value: Tensor) -> dict[str, Tensor]:
    """One tensor of a transformer block; the fused query, key and value become three."""
    tower = "vision_model" if key.startswith("visual.") else "text_model"
    number, rest = key.split("resblocks.", 1)[1].split(".", 1)
    place = f"{tower}.encoder.layers.{number}"
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        parts = zip("qkv", value.chunk(3), strict=True)
        return {f"{place}.self_attn.{name}_proj.{kind}": part.contiguous() for name, part in parts}
    name, kind = rest.rsplit(".", 1)
    if name not in _BLOCK:
        raise wrong_input("weights", f"the key {key!r}", "a CLIP in open_clip's layout", "Use the published file.")
    return {f"{place}.{_BLOCK[name]}.{kind}": value}


def config_of(state: Mapping[str, Tensor], vision_heads: int, text_heads: int) -> Any:
    """The network's sizes, read off its weights; the numbers of heads leave no trace there (ViT-H/14: 16 and 16)."""
    from transformers import CLIPConfig

    conv, positions = state["visual.conv1.weight"], state["visual.positional_embedding"]
    patch, side = conv.shape[-1], round((len(positions) - 1) ** 0.5)
    words, width = state["token_embedding.weight"].shape
    text = {
        "vocab_size": words, "hidden_size": width, "intermediate_size": _inner(state, "transformer."),
        "num_hidden_layers": _layers(state, "transformer."), "num_attention_heads": text_heads,
        "max_position_embeddings": len(state["positional_embedding"]), "hidden_act": "gelu",
        "bos_token_id": words - 2, "eos_token_id": words - 1,
    }  # fmt: skip
    vision = {
        "hidden_size": conv.shape[0], "intermediate_size": _inner(state, "visual.transformer."),
        "num_hidden_layers": _layers(state, "visual.transformer."), "num_attention_heads": vision_heads,
        "image_size": side * patch, "patch_size": patch, "hidden_act": "gelu",
    }  # fmt: skip
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=state["text_projection"].shape[1])


def _inner(state: Mapping[str, Tensor], prefix: str) -> int:
    return int(state[f"{prefix}resblocks.0.mlp.c_fc.weight"].shape[0])


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    keys = [key for key in state if key.startswith(f"{prefix}resblocks.")]
    return 1 + max(int(key.split("resblocks.", 1)[1].split(".", 1)[0]) for key in keys)


def clip_of(state: Mapping[str, Tensor], vision_heads: int = 16, text_heads: int = 16) -> Any:
    """A `transformers` CLIPModel with these weights, float32, in evaluation mode."""
    from transformers import CLIPModel

    lacking = [key for key in (*_WHOLE, *_PROJECTIONS) if key not in state]
    if lacking:
        raise wrong_input("weights", f"no {', '.join(lacking[:4])}", "a CLIP in open_clip's layout", "Use that file.")
    model = CLIPModel(config_of(state, vision_heads, text_heads))
    mismatch = model.load_state_dict({k: v.to(torch.float32) for k, v in converted(state).items()}, strict=False)
    missing = [key for key in mismatch.missing_keys if not key.endswith("position_ids")]
    if missing or mismatch.unexpected_keys:
        got = f"without {missing[:4]}, with unknown {mismatch.unexpected_keys[:4]}"
        raise wrong_input("weights", got, "every tensor of a CLIP", "Download the file again.")
    return model.eval().requires_grad_(False)
