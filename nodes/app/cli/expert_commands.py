"""What the commands that teach an expert on pairs accept."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...engine.settings.setting import override
from ...engine.training.settings import TrainSettings
from ...router.settings import RestyleSettings
from ...sampler.training.settings import ExpertTrainSettings
from .arguments import Parser, add_command, add_device, positive
from .setting_options import add_setting_options

PROMPT = "a {thing} in {style} style"  # app/pairs.py has the same; a test compares them
PRECISIONS = ("model", "float32", "bfloat16")


def add_train_expert(networks: argparse._SubParsersAction[Parser]) -> None:
    """`train expert`, beside the other networks."""
    text = (
        "Teach an expert on pictures before and after, its words held to masks (RegionRoute); Ctrl-C keeps the state."
    )
    parser = add_command(networks, "expert", text)
    parser.set_defaults(command="train expert")
    add = parser.add_argument
    add("--pairs", type=Path, required=True, metavar="FILE.json", help="a manifest, as 'make pairs' writes it")
    add("--root", type=Path, metavar="DIR", help="what paths of manifests are relative to (default: their folder)")
    text = "a manifest of pairs that are held out, instead of --validation: the loss is measured on them"
    add("--validation-pairs", type=Path, metavar="FILE.json", help=text)
    add("-o", "--output", type=Path, required=True, metavar="OUT.safetensors")
    add("--name", help="what the expert is called (default: the output's name)")
    add("--model", default="tinyworld", metavar="tinyworld|FOLDER", help="a diffusers folder, any class we know")
    rate = override(default=None, help=f"Learning rate (default: {TrainSettings.rate:g}; 1e-3 for the tiny world)")
    first, losses = (
        ("steps", "rank", "rate", "batch", "accumulate", "layers"),
        ("preset", "attention", "focus", "cover"),
    )
    add_setting_options(parser, ExpertTrainSettings, *first, options={"rate": "--lr"}, rate=rate)
    add_setting_options(
        parser, ExpertTrainSettings, *losses, "tau", "kappa", "words", "watched", "background", "band", "source"
    )
    add_setting_options(parser, ExpertTrainSettings, "optimizer", "preview_every", "validation", "seed")
    add("--resolution", type=positive, metavar="PIXELS", help="side of the training pictures (default: the model's)")
    add("--precision", choices=PRECISIONS, default="model", help="of the network (default: %(default)s's own)")
    add("--checkpointing", action="store_true", help="compute activations twice, to save memory")
    add("--layout", choices=["kohya", "diffusers"], help="of the file (default: what ComfyUI reads)")
    add("--resume", action="store_true", help="go on where a training of the same output stopped")
    text = (
        "this is one of several processes of 'accelerate launch', on one machine or, with its --num_machines, on "
        "several; --batch is each one's, and to --resume each reads the state"
    )
    add("--accelerate", action="store_true", help=text)
    add_device(parser)


def add_make_pairs(kinds: argparse._SubParsersAction[Parser]) -> None:
    """`make pairs`, beside the other data sets."""
    parser = add_command(kinds, "pairs", "Pictures before and after one thing was restyled, for 'train expert'.")
    parser.set_defaults(command="make pairs")
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, metavar="DIR", help="real pictures")
    source.add_argument("--scenes", type=positive, metavar="N", help="so many scenes of the tiny world")
    add("--masks", type=Path, metavar="DIR", help="mask_NAME_THING.png for every NAME of the pictures")
    add("--find", action="append", default=[], metavar="PHRASE", help="find this in every picture; may be repeated")
    add("--sam", metavar="FILE|tinyworld", help="for --find: Segment Anything outlines what is found")
    add("--detector", type=Path, metavar="FOLDER", help="for --find: Grounding DINO finds the things; with --sam")
    add("--style", required=True, metavar="WORDS", help="the style")
    add("--prompt", default=PROMPT, metavar="TEXT", help="of every pair (default: %(default)s)")
    add("--exact", action="store_true", help="the tiny world's exact filter paints, not its expert")
    add("--model", default="tinyworld", metavar="tinyworld|FOLDER", help="whose expert paints the whole picture")
    add("--expert", type=Path, metavar="LORA", help="the style's LoRA, for your own model")
    strength = override(default=None, help="How far to go, 0 to 1 (default: what suits model and style)")
    steps = override(default=None, help="Sampling steps (default: what suits the model)")
    cfg = override(default=None, help="Classifier-free guidance scale, 1: off (default: what suits the model)")
    add_setting_options(parser, RestyleSettings, strength=strength, steps=steps, cfg=cfg)
    add_setting_options(parser, RestyleSettings, "seed")
    add("-o", "--output", type=Path, required=True, metavar="DIR")
    add_device(parser)
