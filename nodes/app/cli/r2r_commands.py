"""The commands that train R2R's stages, and what each accepts. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...engine.settings.setting import override
from ...harmonizer.training.settings import STAGES, R2RTrainSettings
from .arguments import Parser, add_command, add_device
from .setting_options import add_setting_options

_R2R_TEXTS = {
    "vae": "Teach R2R's Clear-VAE to decode with the composite's detail; Ctrl-C keeps the state.",
    "unet": "Teach R2R's U-Net to harmonise inside the mask; Ctrl-C keeps the state.",
    "controller": "Teach R2R's Harmony Controller, with the U-Net frozen; Ctrl-C keeps the state.",
}


def _add_train_r2r(networks: argparse._SubParsersAction[Parser], stage: str) -> None:
    parser = add_command(networks, f"r2r-{stage}", _R2R_TEXTS[stage])
    parser.set_defaults(command=f"train r2r-{stage}", stage=stage)
    add = parser.add_argument
    add(
        "--data", type=Path, required=True, metavar="DIR", help="composites, masks, real pictures as iHarmony4 has them"
    )
    add(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="R2R's folder; stages before this one lie there"
    )
    add("--start", type=Path, metavar="DIR|FILE", help="weights to begin with (default: those in the output folder)")
    add("--size", choices=["sd", "tiny"], default="sd", help="tiny: few channels, from nothing, trains on a CPU")
    if stage == "vae":
        add("--vgg", type=Path, metavar="FILE", help="vgg16-397923af.pth for the contrastive loss (default: stand-in)")
    add_setting_options(parser, R2RTrainSettings, options={"rate": "--lr"}, steps=override(), epochs=override(),
                        batch=override(), accumulate=override(), rate=override(), resolution=override(),
                        precision=override(), preview_every=override(), seed=override())  # fmt: skip
    add("--resume", action="store_true", help="go on where a training of the same output stopped")
    add("--accelerate", action="store_true", help="this is one of several processes of 'accelerate launch'")
    add_device(parser)


def add_train_r2r(networks: argparse._SubParsersAction[Parser]) -> None:
    """`train r2r-vae`, `r2r-unet` and `r2r-controller`."""
    for stage in STAGES:
        _add_train_r2r(networks, stage)
