"""`regionstyle train gate`: prompts and the experts they are for to a learnt gate, in seconds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .train_style import TINY

if TYPE_CHECKING:
    from ...router.gates.training import GateExample

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


def run_gate_training(args: argparse.Namespace) -> int:
    """Train a gate and write it; says how many of its own prompts it sends to their expert."""
    from ...engine.io.safe_write import check_output
    from ...router.gates.files import save_gate
    from ...router.gates.training import GateSettings, train_gate
    from .console import console_host

    check_output(args.output, (".safetensors",))
    examples, own = _examples(args)
    host = console_host(args.device)
    encode = _encoder(args.model, host)
    settings = GateSettings(args.steps, rate=args.lr, balance=args.balance, seed=args.seed, top_k=args.top_k)
    gate, losses = train_gate(examples, encode, settings, host)
    save_gate(gate, args.output, "MIT, trained by this project" if own else "")
    right = _right(gate, examples, encode)
    sys.stdout.write(
        f"wrote {args.output}: loss {losses[0]:.3f} to {losses[-1]:.3f}, {right:.0%} of its prompts right\n"
    )
    return 0


def _examples(args: argparse.Namespace) -> tuple[list[GateExample], bool]:
    """Those of the file, or the tiny world's own."""
    from ...engine.errors import wrong_input
    from ...router.gates.training import examples_of

    if args.prompts is not None:
        return examples_of(args.prompts.read_text(encoding="utf-8")), False
    if args.model != TINY:
        accepts = "a file of lines 'expert: prompt'"
        raise wrong_input("--prompts", "nothing", accepts, "Only the tiny world brings its own.")
    return tiny_examples(args.seed), True


def tiny_examples(seed: int = 0, count: int = PER_STYLE) -> list[GateExample]:
    """So many prompts for each style of the tiny world: things of any colour and shape."""
    import random

    from ...router.gates.training import GateExample
    from ...tinyworld.bundled import expert_files
    from ...tinyworld.shapes import SHAPES
    from ...tinyworld.world import COLORS

    draw = random.Random(seed)
    examples = []
    for style in expert_files():
        for number in range(count):
            first, second = (f"a {draw.choice(list(COLORS))} {draw.choice(list(SHAPES))}" for _ in range(2))
            ground = draw.choice(("plain", "gradient", "leaves", "noise"))
            prompt = WAYS[number % len(WAYS)].format(first=first, second=second, ground=ground, style=style)
            examples.append(GateExample(prompt, style))
    return examples


def _encoder(model: str, host: Any) -> Any:
    if model == TINY:
        from ...tinyworld.bundled import load_predictor

        return load_predictor(host).encode_text
    from ..models import load_folder

    return load_folder(Path(model), None, host).encode_text


def _right(gate: Any, examples: list[GateExample], encode: Any) -> float:
    """The share of prompts whose likeliest expert is theirs."""
    from ...router.gates.training import encoded

    likeliest = gate(encoded([example.prompt for example in examples], encode)).probabilities.argmax(-1).tolist()
    return sum(
        gate.experts[expert] == example.expert for expert, example in zip(likeliest, examples, strict=True)
    ) / len(examples)
