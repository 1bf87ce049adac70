"""A vision-language model reads the request and the picture: regions, styles and boxes in one answer.

LEAST (arXiv 2405.16330, section 3.1) asks LLaVA this way. Here the answer must be JSON, is checked, and is asked for
once more when it is not; and pictures are padded to a square before LLaVA sees them. LLaVA's training boxes refer to
the padded square, while some of its versions see the picture squashed to one: on a square picture both are the same.
One path of `transformers` serves LLaVA and the Qwen-VL family, which count boxes differently (`FAMILIES`).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.base import Host
from ...engine.language.instruction import EditRequest, Instruction
from ...engine.language.region_words import region_request
from ..language.written_words import LONGEST_SENTENCE, check_words
from .network_folders import model_type

SQUARE, THOUSAND, INPUT_PIXELS = "square", "thousand", "input pixels"
# model_type -> how a box is counted: shares of the padded square, thousandths of the picture, or pixels of the
# picture as the processor resized it.
FAMILIES = {
    "llava": SQUARE,
    "llava_next": SQUARE,
    "qwen2_vl": THOUSAND,
    "qwen2_5_vl": INPUT_PIXELS,
    "qwen3_vl": THOUSAND,
    "qwen3_vl_moe": THOUSAND,
}
PUBLIC_FOLDERS = ("llava-hf/llava-v1.6-mistral-7b-hf", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-4B-Instruct")
_UNITS = {
    SQUARE: "as shares of the picture's width and height, 0 to 1",
    THOUSAND: "as numbers from 0 to 1000 across the picture",
    INPUT_PIXELS: "in pixels",
}
MOST_TOKENS = 512
SMALLEST_SHARE, LARGEST_SHARE = 0.001, 0.98  # of the picture's area: other boxes are no answer
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Vlm:
    """An image-text-to-text model with its processor; family: its `model_type`."""

    model: Any
    processor: Any
    family: str
    name: str


@dataclass(frozen=True)
class VlmAnswer:
    """instruction: what is asked for; boxes: the corners in pixels for each request, None where none was given; reply:
    the model's words."""

    instruction: Instruction
    boxes: tuple[Corners | None, ...]
    reply: str


@dataclass(frozen=True)
class _View:
    """How the model saw the picture: its size, the padding on each side, and the size of the resized input."""

    size: tuple[int, int]
    left: float = 0.0
    top: float = 0.0
    side: int = 0
    input_size: tuple[int, int] = (0, 0)


def load_vlm(folder: Path, dtype: torch.dtype) -> Vlm:
    """The network in a folder as `save_pretrained` writes it; nothing is fetched, no code from the folder is run.

    RegionStyleError when it holds another kind of network or lacks a file.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    family = model_type(folder)
    if family not in FAMILIES:
        remedy = f"Use a folder such as {', '.join(PUBLIC_FOLDERS)}."
        raise wrong_input("vlm", f"{folder.name}, a {family!r}", f"one of: {', '.join(FAMILIES)}", remedy)
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, dtype=dtype)
    except Exception as error:  # transformers, torch and safetensors raise many kinds for a broken file
        raise RegionStyleError(
            f"vlm: {folder} cannot be loaded ({str(error)[:300]}). It must hold every file of the published model."
        ) from error
    return Vlm(model.eval().requires_grad_(False), processor, family, folder.name)


def question(prompt: str, family: str) -> str:
    """What the model is asked about a user's prompt (LEAST asks for box and quoted style in free words)."""
    return (
        f"Someone wants this picture edited and says: '{prompt}'. Answer with a JSON list and nothing else. Give one "
        'object for each thing that is to be changed, with these keys: "region", the words for the thing and for which '
        'of several it is, as they were said; "style", the words for its new look; "bbox_2d", where the thing is, '
        f"[left, top, right, bottom] {_UNITS[FAMILIES[family]]}."
    )


def ask(vlm: Vlm, image: Tensor, prompt: str, host: Host) -> VlmAnswer:
    """The regions that a prompt asks for in a picture `[3,H,W]` in 0..1. Greedy, so the same every time.

    RegionStyleError that shows the reply when it is no valid answer, also after it was asked for once more.
    """
    if not prompt.strip():
        raise wrong_input("request", repr(prompt), "an instruction", "Type for example: make the dog a watercolor.")
    check_words(prompt, "request", LONGEST_SENTENCE)
    host.load(vlm.model)
    messages = [_said("user", question(prompt.strip(), vlm.family), image=True)]
    reply, view = _generate(vlm, image, messages, host)
    try:
        return read_answer(reply, vlm.family, view)
    except ValueError as error:
        again = f"This is no valid answer: {error}. Answer with the JSON list alone, in the form that was described."
        messages += [_said("assistant", reply), _said("user", again)]
    reply, view = _generate(vlm, image, messages, host)
    try:
        return read_answer(reply, vlm.family, view)
    except ValueError as error:
        raise RegionStyleError(
            f"vlm: {vlm.name} was asked twice and its reply cannot be used ({error}). It said: {reply[:500]!r}. "
            "Use simpler words, a larger model, or the prompt reader and Grounding DINO instead."
        ) from error


def answer_freely(vlm: Vlm, image: Tensor, words: str, host: Host) -> str:
    """The model's reply to any question about a picture `[3,H,W]` in 0..1, in its own words. Greedy."""
    host.load(vlm.model)
    return _generate(vlm, image, [_said("user", words, image=True)], host)[0]


def _said(role: str, text: str, image: bool = False) -> dict[str, Any]:
    parts = [{"type": "image"}] if image else []
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def _generate(vlm: Vlm, image: Tensor, messages: list[dict[str, Any]], host: Host) -> tuple[str, _View]:
    from transformers import StoppingCriteriaList

    def cancelled(ids: Tensor, scores: Any, **_: Any) -> Tensor:
        host.check()  # raises
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    picture, view = _shown(vlm, image)
    text = vlm.processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = vlm.processor(images=[picture], text=[text], return_tensors="pt")
    if "image_grid_thw" in inputs:
        patch = vlm.processor.image_processor.patch_size
        _, rows, columns = (int(value) for value in inputs["image_grid_thw"][0])
        view = _View(view.size, input_size=(rows * patch, columns * patch))
    start = inputs["input_ids"].shape[1]
    with torch.no_grad():
        tokens = vlm.model.generate(
            **inputs.to(host.device, dtype=vlm.model.dtype),
            do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None, max_new_tokens=MOST_TOKENS,
            stopping_criteria=StoppingCriteriaList([cancelled]),
        )  # fmt: skip
    return vlm.processor.tokenizer.decode(tokens[0, start:], skip_special_tokens=True).strip(), view


def _shown(vlm: Vlm, image: Tensor) -> tuple[Any, _View]:
    """The picture as the model is given it, and how."""
    from ...engine.host.comfy import to_pil

    size = (int(image.shape[-2]), int(image.shape[-1]))
    if FAMILIES[vlm.family] != SQUARE:
        return to_pil(image), _View(size)
    square, left, top = pad_to_square(image)
    return to_pil(square), _View(size, left, top, square.shape[-1])


def pad_to_square(image: Tensor) -> tuple[Tensor, int, int]:
    """A picture `[3,H,W]` in the middle of a square of its mean colour, and the padding at the left and at the top."""
    height, width = image.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    square = image.mean((-2, -1), keepdim=True).expand(-1, side, side).clone()
    square[..., top : top + height, left : left + width] = image
    return square, left, top


def read_answer(reply: str, family: str, view: _View) -> VlmAnswer:
    """The answer in a reply: a JSON list of objects, alone or in one code fence.

    ValueError saying what is wrong with it.
    """
    entries = _entries(reply)
    requests = tuple(_request(entry) for entry in entries)
    return VlmAnswer(Instruction(requests), tuple(_box(entry, family, view) for entry in entries), reply)


def _entries(reply: str) -> list[dict[str, Any]]:
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", reply, re.DOTALL)
    try:
        entries = json.loads(fenced[1] if fenced else reply)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from None
    entries = [entries] if isinstance(entries, dict) else entries
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("it is not a list of objects")
    return entries


def _request(entry: dict[str, Any]) -> EditRequest:
    for key in ("region", "style"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise ValueError(f"an object has no {key!r}")
    words, style = entry["region"].strip(), entry["style"].strip()
    return region_request(words, style) or EditRequest(words, style)


def _box(entry: dict[str, Any], family: str, view: _View) -> Corners | None:
    """The corners in pixels of the picture, cut to it; None when the object gives none."""
    numbers = entry.get("bbox_2d")
    if numbers is None:
        return None
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(_is_number(value) for value in numbers):
        raise ValueError(f"bbox_2d {numbers!r} is not four numbers")
    x0, y0, x1, y1 = box_in_pixels(numbers, family, view)
    height, width = view.size
    x0, x1 = (min(max(value, 0.0), float(width)) for value in sorted((x0, x1)))
    y0, y1 = (min(max(value, 0.0), float(height)) for value in sorted((y0, y1)))
    share = (x1 - x0) * (y1 - y0) / (height * width)
    if not SMALLEST_SHARE <= share <= LARGEST_SHARE:
        raise ValueError(f"bbox_2d {numbers!r} covers {100 * share:.1f} percent of the picture")
    return x0, y0, x1, y1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def box_in_pixels(numbers: list[float], family: str, view: _View) -> Corners:
    """A box as the family counts it, in pixels of the picture (not yet cut to it)."""
    height, width = view.size
    x0, y0, x1, y1 = (float(value) for value in numbers)
    kind = FAMILIES[family]
    if kind == SQUARE:
        s = view.side
        return x0 * s - view.left, y0 * s - view.top, x1 * s - view.left, y1 * s - view.top
    rows, columns = (1000, 1000) if kind == THOUSAND else view.input_size
    across, down = width / columns, height / rows
    return x0 * across, y0 * down, x1 * across, y1 * down
