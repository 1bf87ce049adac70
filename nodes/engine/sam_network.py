"""Segment Anything networks: their architecture read off a weights file, built with the `segment-anything` package.

Source: Kirillov et al., Segment Anything, ICCV 2023 (appendix A). The public networks are vit_b, vit_l and vit_h; any
other size made of the same parts is recognised too. Networks run in float32, as `SamPredictor` runs them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import RegionStyleError, wrong_input

PUBLIC_FILES = {
    "vit_b": "sam_vit_b_01ec64.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_h": "sam_vit_h_4b8939.pth",
}
_PUBLIC_SIZES = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}
# What the keys of networks begin with that are often taken for it.
_OTHERS = {"image_encoder.trunk.": "a SAM 2", "image_encoder.patch_embed.seq.": "a MobileSAM"}
DECODER_HEADS = 8  # of the two-way transformer: no weight's shape tells it, and every public network has 8
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of pixels 0..255, RGB


@dataclass(frozen=True)
class SamConfig:
    """Sizes of a network; `image_size` and `patch` in pixels, `window` in patches (0: no windows)."""

    image_size: int = 1024
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    window: int = 14
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    prompt_width: int = 256
    mask_channels: int = 16
    decoder_depth: int = 2
    decoder_mlp: int = 2048
    masks: int = 3
    iou_depth: int = 3
    iou_width: int = 256

    @property
    def name(self) -> str:
        """vit_b, vit_l, vit_h, or the sizes of another network."""
        return _PUBLIC_SIZES.get((self.width, self.depth), f"width {self.width}, depth {self.depth}")


def new_sam(config: SamConfig) -> Any:
    """A randomly initialised `segment_anything.modeling.Sam`, in evaluation mode."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    side, width = config.image_size // config.patch, config.prompt_width
    encoder = ImageEncoderViT(
        img_size=config.image_size,
        patch_size=config.patch,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        out_chans=width,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window,
        global_attn_indexes=config.global_blocks,
    )
    transformer = TwoWayTransformer(
        depth=config.decoder_depth, embedding_dim=width, mlp_dim=config.decoder_mlp, num_heads=DECODER_HEADS
    )
    decoder = MaskDecoder(
        num_multimask_outputs=config.masks,
        transformer=transformer,
        transformer_dim=width,
        iou_head_depth=config.iou_depth,
        iou_head_hidden_dim=config.iou_width,
    )
    prompts = PromptEncoder(
        embed_dim=width,
        image_embedding_size=(side, side),
        input_image_size=(config.image_size, config.image_size),
        mask_in_chans=config.mask_channels,
    )
    return Sam(encoder, prompts, decoder, list(PIXEL_MEAN), list(PIXEL_STD)).eval()


def config_of(state: Mapping[str, Tensor], source: str = "the file") -> SamConfig:
    """The sizes of the network that a state dict belongs to, from its keys and shapes.

    source: what the error calls it. RegionStyleError when it is no Segment Anything network of the first kind.
    """
    try:
        return _config_of({key: tuple(value.shape) for key, value in state.items()})
    except (KeyError, IndexError, StopIteration, ZeroDivisionError, ValueError):
        some = ", ".join(list(state)[:3]) or "nothing"
        public = ", ".join(f"{name} ({file})" for name, file in PUBLIC_FILES.items())
        accepts = f"weights of Segment Anything in its authors' layout: {public}, or another size of it"
        other = next((name for key, name in _OTHERS.items() if any(each.startswith(key) for each in state)), None)
        got = f"{source}, which is {other}" if other else f"{source} with {some}, ..."
        raise wrong_input("sam", got, accepts, "SAM 2, SAM-HQ and MobileSAM are other networks.") from None


def _config_of(shape: Mapping[str, tuple[int, ...]]) -> SamConfig:
    width, _, patch, _ = shape["image_encoder.patch_embed.proj.weight"]
    side = shape["image_encoder.pos_embed"][1]
    depth = _count(shape, r"image_encoder\.blocks\.(\d+)\.")
    # a block's table of relative positions has 2 * side - 1 rows: its own window's side, or the whole grid's
    spans = [(shape[f"image_encoder.blocks.{i}.attn.rel_pos_h"][0] + 1) // 2 for i in range(depth)]
    head_width = shape["image_encoder.blocks.0.attn.rel_pos_h"][1]
    return SamConfig(
        image_size=side * patch,
        patch=patch,
        width=width,
        depth=depth,
        heads=width // head_width,
        mlp_ratio=shape["image_encoder.blocks.0.mlp.lin1.weight"][0] / width,
        window=next((span for span in spans if span != side), 0),
        global_blocks=tuple(i for i, span in enumerate(spans) if span == side),
        prompt_width=shape["image_encoder.neck.0.weight"][0],
        mask_channels=shape["prompt_encoder.mask_downscaling.3.weight"][0],
        decoder_depth=_count(shape, r"mask_decoder\.transformer\.layers\.(\d+)\."),
        decoder_mlp=shape["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0],
        masks=shape["mask_decoder.mask_tokens.weight"][0] - 1,
        iou_depth=_count(shape, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
        iou_width=shape["mask_decoder.iou_prediction_head.layers.0.weight"][0],
    )


def _count(shape: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """How many numbered parts there are."""
    numbers = {int(match[1]) for key in shape if (match := re.match(pattern, key))}
    if not numbers:
        raise KeyError(pattern)
    return len(numbers)


def sam_from_state(state: Mapping[str, Tensor], source: str = "the file") -> Any:
    """The network of a state dict, float32, frozen, on the CPU. RegionStyleError when the weights are another's."""
    config = config_of(state, source)
    with torch.device("meta"):  # no time and memory for random weights that are replaced at once
        sam = new_sam(config)
    _check_finite(state, source)
    try:
        sam.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    except RuntimeError as error:
        raise RegionStyleError(
            f"sam: got {source}, a network like {config.name} whose weights do not fit Segment Anything: "
            f"{str(error)[:400]} Use one of {', '.join(PUBLIC_FILES.values())}. SAM-HQ is another network."
        ) from error
    for name, values in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):  # not in the file, so still meta
        sam.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
    return sam.eval().requires_grad_(False)


def _check_finite(state: Mapping[str, Tensor], source: str) -> None:
    if bad := [key for key, value in state.items() if not bool(value.isfinite().all())]:
        got = f"{source} with NaN or infinity in {bad[0]} ({len(bad)} such)"
        raise wrong_input("sam", got, "finite numbers", f"Use one of {', '.join(PUBLIC_FILES.values())}.")


def load_sam(path: Path) -> Any:
    """The network of a file: the public .pth (read with weights_only) or .safetensors."""
    try:
        state = _read(path)
    except Exception as error:  # torch and safetensors raise many kinds for a broken file
        raise RegionStyleError(
            f"sam: {path} cannot be read as weights ({str(error)[:200]}). Download the file again: one of "
            f"{', '.join(PUBLIC_FILES.values())}, or a .safetensors of the same weights."
        ) from error
    return sam_from_state(state, path.name)


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):  # SAM 2 and others: named by config_of
        state = state["model"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"it holds a {type(state).__name__}, not a table of tensors")
    return state
