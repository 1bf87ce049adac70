"""Part 4: with the time that is left, the tiny networks are trained on, from the weights that ship.

In a copy of the pack, so that this checkout stays as it is. What a stage has shipped there is kept as one file of less
than 12 MB: `weights-unet.tar`, `weights-experts.tar`, `weights-vae.tar`, to be unpacked in nodes/tinyworld/weights and
evaluated (`regionstyle evaluate tinyworld`) before anybody takes them. The denoiser first, then experts for it, weakest
first, then the decoder: the encoder stays, or everything that knows its latents would have to be trained anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from registry import Run, part

ROOT = Path(__file__).resolve().parents[3]
LARGEST_MB = 12
LEAST = 8  # seconds in which a stage would not be worth its beginning
# What is trained, its share of the time, and the files that come of it.
STAGES = (
    ("unet", 0.5, "unet", "unet.safetensors"),
    ("expert:pixel-art", 0.1, "experts", "experts/tinyworld/pixel-art.safetensors"),
    ("expert:mosaic", 0.1, "experts", "experts/tinyworld/mosaic.safetensors"),
    ("expert:neon", 0.1, "experts", "experts/tinyworld/neon.safetensors"),
    ("decoder", 0.2, "vae", "vae.safetensors"),
)
TRAIN = """
import logging, sys
from pathlib import Path
import torch
from regionstyle.nodes.tinyworld.training import stages
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
stage, folder, device, minutes, pool, own = sys.argv[1:]
stages.POOL_SIZE, stages.EXPERT_PICTURES = int(pool), int(own)
run = stages.Run(Path(folder), torch.device(device))
if not float(minutes):
    run.pool()
elif not stages.run_stage(stage, run, float(minutes)):
    raise SystemExit("not finished")
"""


@part("training", order=90, seconds=400)
def training(run: Run) -> None:
    copy = run.scratch / "copy"
    pack = copy / "regionstyle"
    for name in ("kernels", "nodes"):
        shutil.copytree(ROOT / name, pack / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__init__.py", pack)
    began = time.monotonic()
    train(run, copy, "unet", 0.0)  # the pictures
    run.figure("rendering the pictures", time.monotonic() - began, "s")
    share = sum(stage[1] for stage in STAGES)
    for stage, part_of_all, name, file in STAGES:
        given = part_of_all / share * (run.left() - 5)
        share -= part_of_all
        seconds = 2.0 if run.dry else given * 0.8  # the rest: reading, encoding, writing
        if seconds < LEAST and not run.dry:
            break
        train(run, copy, stage, seconds / 60)
        run.figure(f"{stage}: trained", seconds, "s")
        keep(run, name, pack / "nodes" / "tinyworld" / "weights", file)


def train(run: Run, copy: Path, stage: str, minutes: float) -> None:
    counts = ("40", "20") if run.dry else ("12000", "1000")
    line = [sys.executable, "-c", TRAIN, stage, str(run.scratch / "training"), run.device, str(minutes), *counts]
    subprocess.run(line, check=True, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)})


def keep(run: Run, name: str, weights: Path, file: str) -> None:
    """Put one shipped file into its archive in the results; the archive is there as soon as the stage has ended."""
    archive = run.out / f"weights-{name}.tar"
    with tarfile.open(archive, "a") as files:
        files.add(weights / file, file)
    size = archive.stat().st_size / 1e6
    run.check(f"{archive.name} is below {LARGEST_MB} MB", size < LARGEST_MB, f"{size:.1f} MB")
