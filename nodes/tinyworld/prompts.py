"""Prompts about the tiny world for each of its styles: what a learnt gate is trained and judged with."""

from __future__ import annotations

import random

from .bundled import expert_files
from .shapes import SHAPES
from .world import COLORS

# Where the style's words stand must not matter, nor how many things there are.
WAYS = (
    "{first} in {style} style",
    "{first} on plain background in {style} style",
    "{style}",
    "{style} style",
    "{first} and {second} in {style} style",
    "{first} and {second} on {ground} background in {style} style",
    "{style} {first}",
    "{first} in {style} style and {second}",
)
PER_STYLE = 400  # with 100, unseen pairs of things were sent wrong


def style_prompts(seed: int = 0, count: int = PER_STYLE) -> list[tuple[str, str]]:
    """So many (prompt, style) for each style: things of any colour and shape."""
    draw = random.Random(seed)
    prompts = []
    for style in expert_files():
        for number in range(count):
            first, second = (f"a {draw.choice(list(COLORS))} {draw.choice(list(SHAPES))}" for _ in range(2))
            ground = draw.choice(("plain", "gradient", "leaves", "noise"))
            prompt = WAYS[number % len(WAYS)].format(first=first, second=second, ground=ground, style=style)
            prompts.append((prompt, style))
    return prompts
