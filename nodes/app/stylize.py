"""`regionstyle stylize`: restyle one thing, one region or the whole of the user's own picture."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine.errors import RegionStyleError
from ..engine.gates import Gates, RegionGate
from ..engine.region import box_mask, checked_box
from ..grounding.attention import AttentionSettings, ground_by_attention
from ..grounding.prompt import Request, parse_prompt
from ..router.restyle import Restyled, RestyleSettings, restyle_region
from .console import console_host
from .demo import tiny_settings
from .pictures import read_image, read_mask, save_image

TINY = "tinyworld"


def run_stylize(args: argparse.Namespace) -> int:
    """`regionstyle stylize IMAGE "PROMPT" -o OUT.png`."""
    image = read_image(args.image)
    predictor, request = _predictor(args)
    with predictor.loaded():
        mask = _mask(args, predictor, image, request)
        result = _restyled(args, predictor, image, mask, request)
    save_image(result.image, args.output)
    sys.stdout.write(f"wrote {args.output}\n")
    return 0


def _predictor(args: argparse.Namespace) -> tuple[Any, Request]:
    """The model with its expert attached, and the prompt as that model's styles read it."""
    host = console_host(args.device)
    if args.model == TINY:
        if args.expert is not None:
            raise RegionStyleError(
                "--expert: got a file with the tiny world, expected it with --model FOLDER. The tiny "
                "world brings its own experts; leave --expert out."
            )
        return _tiny(args, host)
    from .models import load_folder

    predictor = load_folder(Path(args.model), args.expert, host)
    return predictor, parse_prompt(args.prompt, None, args.style)


def _tiny(args: argparse.Namespace, host: Any) -> tuple[Any, Request]:
    from ..tinyworld.shipped import expert_files, load_predictor, load_shipped_expert

    request = parse_prompt(args.prompt, list(expert_files()), args.style)
    return load_predictor(host, [load_shipped_expert(request.style)]), request


def _mask(args: argparse.Namespace, predictor: Any, image: Tensor, request: Request) -> Tensor:
    """The region `[H,W]`: a file, a box, everything, or found by the model's own attention."""
    size = (int(image.shape[-2]), int(image.shape[-1]))
    if args.mask is not None:
        return read_mask(args.mask, size)
    if args.box is not None:
        return box_mask(checked_box(args.box, size), size)
    if args.whole:
        return torch.ones(size)
    if args.model == TINY:
        _check_words(request.phrase)
    found = ground_by_attention(predictor, image, request.phrase, settings=AttentionSettings(seed=args.seed))
    if not found.found:
        raise RegionStyleError(
            f"phrase: {request.phrase!r} was not found in the picture. Use other words for it, or "
            "give the region with --mask, --box or --whole."
        )
    return found.mask


def _check_words(phrase: str) -> None:
    """The tiny world can only find what it has words for."""
    from ..tinyworld.tokenizer import known
    from ..tinyworld.world import COLORS, SHAPES

    strange = [word for word in phrase.split() if not known(word)]
    if strange:
        raise RegionStyleError(
            f"phrase: {phrase!r} was not found: the tiny world knows no word {strange[0]!r}, only shapes "
            f"({', '.join(SHAPES)}) and colours ({', '.join(COLORS)}). Give the region with --mask, --box or --whole, "
            "or a real model with --model FOLDER."
        )


def _restyled(args: argparse.Namespace, predictor: Any, image: Tensor, mask: Tensor, request: Request) -> Restyled:
    if args.model == TINY:
        settings = tiny_settings(request.style, seed=args.seed)
    else:
        settings = RestyleSettings(strength=0.6, steps=30, cfg=7.0, seed=args.seed, feather=8, largest_scale=4.0)
    chosen = {"strength": args.strength, "steps": args.steps}
    settings = replace(settings, **{name: value for name, value in chosen.items() if value is not None})
    if settings.strength == 0:
        raise RegionStyleError(
            "--strength: got 0, expected more than 0, at most 1. 0 would leave the picture as it is."
        )
    known = args.model == TINY
    prompt = _prompt(request, args.whole or args.mask is not None or args.box is not None)
    return restyle_region(
        predictor,
        image,
        mask,
        prompt,
        negative=None if known else "",
        settings=settings,
        gate=lambda region, cut: _gates(predictor, region),
    )


def _prompt(request: Request, given: bool) -> str:
    """What the model is told: the thing where it was found, otherwise only the style."""
    return f"a picture in {request.style} style" if given else f"a {request.phrase} in {request.style} style"


def _gates(predictor: Any, region: Tensor) -> Gates | None:
    """Every attached expert acts inside the region."""
    if predictor.experts is None:
        return None
    return Gates({name: RegionGate(region) for name in predictor.experts.names})
