"""`regionstyle stylize`: restyle the things a sentence names, one region or the whole of the user's own picture."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError
from ...engine.language.instruction import Instruction
from ...engine.region.region import Region, box_mask, checked_box
from ...engine.region.regions import region_of
from ...grounding.finders.sentence_regions import queries
from ...grounding.language.prompt import parse_sentence
from ...router.restyle import Restyled
from ..ground_instruction import check_finders, ground_instruction
from ..models import folder_settings, load_folder
from ..pictures import read_image, read_mask, save_image
from ..sentence import WHOLE, restyle_in_turn, restyle_with_expert
from ..stylize_generator import Painted, check_generator, generator_for, paint
from .console import console_host
from .demo import tiny_settings

TINY = "tinyworld"


def run_stylize(args: argparse.Namespace) -> int:
    """`regionstyle stylize IMAGE "PROMPT" -o OUT.png`."""
    check_finders(args.sam, args.detector)
    _check_unused(args)
    image = read_image(args.image)
    check_generator(args)
    predictor, sentence = _predictor(args)
    with predictor.loaded():
        regions = _regions(args, predictor, image, sentence)
        result, _ = restyle_in_turn(image, regions, lambda part, region: _restyled(args, predictor, part, region))
    save_image(result, args.output)
    sys.stdout.write(f"wrote {args.output}\n")
    return 0


def _predictor(args: argparse.Namespace) -> tuple[Any, Instruction]:
    """The model with its experts attached, and the prompt as that model's styles read it."""
    host = console_host(args.device)
    if args.model == TINY:
        if args.expert is not None:
            raise RegionStyleError(
                "--expert: got a file with the tiny world, expected it with --model FOLDER. The tiny "
                "world brings its own experts; leave --expert out."
            )
        return _tiny(args, host)
    predictor = load_folder(Path(args.model), args.expert, host)
    sentence = parse_sentence(args.prompt, None, args.style)
    styles = list(dict.fromkeys(one.style for one in sentence.requests))
    if args.expert is not None and len(styles) > 1:
        raise RegionStyleError(
            f"prompt: got the styles {', '.join(styles)}, expected one, since --expert is one style's LoRA. Restyle "
            "one style at a time."
        )
    return predictor, sentence


def _tiny(args: argparse.Namespace, host: Any) -> tuple[Any, Instruction]:
    from ...tinyworld.bundled import expert_files, load_bundled_expert, load_predictor

    sentence = parse_sentence(args.prompt, list(expert_files()), args.style)
    styles = dict.fromkeys(one.style for one in sentence.requests)
    return load_predictor(host, [load_bundled_expert(style) for style in styles]), sentence


def _regions(args: argparse.Namespace, predictor: Any, image: Tensor, sentence: Instruction) -> list[Region]:
    """A given region for the one thing that is named, or what the model's own attention finds for all of them."""
    size = (int(image.shape[-2]), int(image.shape[-1]))
    given = _given_mask(args, size)
    if given is not None:
        if len(sentence.requests) > 1 or sentence.kept:
            raise RegionStyleError(
                f"prompt: got several things ({sentence}), expected one with --mask, --box or --whole. Name only the "
                "style of that region."
            )
        return [region_of(WHOLE, given, style=sentence.requests[0].style)]
    if args.model == TINY and args.detector is None:
        _check_words(sentence)
    return ground_instruction(predictor, image, sentence, args.sam, args.detector, args.seed)


def _given_mask(args: argparse.Namespace, size: tuple[int, int]) -> Tensor | None:
    """The region `[H,W]` of a file or box, or everything; None when the prompt has to say where."""
    if args.mask is not None:
        return read_mask(args.mask, size)
    if args.box is not None:
        return box_mask(checked_box(args.box, size), size)
    return torch.ones(size) if args.whole else None


def _check_unused(args: argparse.Namespace) -> None:
    used = [name for name, value in (("--sam", args.sam), ("--detector", args.detector)) if value is not None]
    if used and (args.mask is not None or args.box is not None or args.whole):
        raise RegionStyleError(
            f"{' and '.join(used)}: got it with --mask, --box or --whole, expected one or the other, since a region "
            "that is given need not be found. Leave one of them out."
        )


def _check_words(sentence: Instruction) -> None:
    """The tiny world can only find what it has words for."""
    from ...tinyworld.tokenizer import known
    from ...tinyworld.world import COLORS, SHAPES

    for phrase in queries(sentence):
        strange = [word for word in phrase.split() if not known(word.lower())]
        if strange:
            raise RegionStyleError(
                f"phrase: {phrase!r} was not found: the tiny world knows no word {strange[0]!r}, only shapes "
                f"({', '.join(SHAPES)}) and colours ({', '.join(COLORS)}). Give the region with --mask, --box or "
                "--whole, a real model with --model FOLDER, or what finds it with --detector and --sam."
            )


def _restyled(args: argparse.Namespace, predictor: Any, image: Tensor, region: Region) -> Restyled | Painted:
    generator = generator_for(args, image, region.style, tiny=args.model == TINY)
    if generator is not None:
        return paint(generator, image, region, predictor.host)
    given = {"strength": args.strength, "steps": args.steps, "seed": args.seed}
    chosen = {name: value for name, value in given.items() if value is not None}
    if args.strength == 0:
        raise RegionStyleError(
            "--strength: got 0, expected more than 0, at most 1. 0 would leave the picture as it is."
        )
    if args.model == TINY:
        return restyle_with_expert(predictor, image, region, tiny_settings(region.style, **chosen))
    settings, negative = folder_settings(predictor, **chosen)
    return restyle_with_expert(predictor, image, region, settings, negative)
