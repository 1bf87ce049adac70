"""`regionstyle train gate`: prompts and the experts they are for to a learnt gate, in seconds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .train_style import TINY

if TYPE_CHECKING:
    from ...router.gates.training import GateExample


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
    from ...router.gates.training import GateExample, examples_of
    from ...tinyworld.prompts import style_prompts

    if args.prompts is not None:
        return examples_of(args.prompts.read_text(encoding="utf-8")), False
    if args.model != TINY:
        accepts = "a file of lines 'expert: prompt'"
        raise wrong_input("--prompts", "nothing", accepts, "Only the tiny world brings its own.")
    return [GateExample(prompt, style) for prompt, style in style_prompts(args.seed)], True


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
