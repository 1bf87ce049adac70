"""A `Text` as ComfyUI's conditioning, with what some models read beside the words."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import RegionStyleError, wrong_input
from .base import Extras, Text

# The names of `Extras` in a conditioning, as ComfyUI's own nodes write them.
EXTRA_KEYS = {
    "guidance": ("guidance",),
    "original": ("height", "width"),
    "crop": ("crop_h", "crop_w"),
    "target": ("target_height", "target_width"),
}


def conditioning_of(text: Text, count: int) -> list[Any]:
    """ComfyUI's conditioning for `count` images: as it is for one prompt, otherwise one entry that holds them all."""
    if text.native is None:
        raise RegionStyleError("text: it was encoded by another host. Encode it with this predictor's encode_text.")
    added = _named_extras(text.extras)
    if len(text) == 1:
        _refuse_hooks(text.native[0])
        return [[states, {**extra, **added}] for states, extra in text.native[0]]
    text = text.repeat(count)
    rest = [{k: v for k, v in native[0][1].items() if k != "pooled_output"} for native in text.native]
    plain = all(isinstance(value, (int, float)) for extra in rest for value in extra.values())
    if any(len(native) != 1 for native in text.native) or not plain or any(extra != rest[0] for extra in rest):
        got = "a different CONDITIONING with areas, masks, sizes or ControlNets for each image"
        raise wrong_input("text", got, "one such CONDITIONING for all images, or plain prompts", "Run them one by one.")
    pooled = {} if text.pooled is None else {"pooled_output": text.pooled}
    return [[text.states, {**pooled, **rest[0], **added}]]


def for_any_rows(text: Text) -> bool:
    """Whether any part of the batch may run with these prompts: nothing in them belongs to single images."""
    entries = [extra.values() for native in text.native or [] for _, extra in native]
    return all(_same_for_all(value) for values in entries for value in values)


def _same_for_all(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 or len(value) == 1
    if isinstance(value, (tuple, list)):
        return all(map(_same_for_all, value))
    return value is None or isinstance(value, (int, float, str))


def _named_extras(extras: Extras) -> dict[str, Any]:
    """Extras under the names that ComfyUI's nodes give them."""
    entries: dict[str, Any] = {}
    for name in extras.given():
        value = getattr(extras, name)
        keys = EXTRA_KEYS[name]
        entries.update(zip(keys, value if len(keys) > 1 else (value,), strict=True))
    return entries


def _refuse_hooks(conditioning: list[Any]) -> None:
    controls = [extra["control"] for _, extra in conditioning if "control" in extra]
    if any("hooks" in extra for _, extra in conditioning) or any(control.get_extra_hooks() for control in controls):
        got = "a CONDITIONING with LoRA hooks"
        raise wrong_input("text", got, "one without", "Route styles with RegionStyle experts instead of hooks.")
