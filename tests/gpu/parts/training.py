"""Part 4: with the time that is left, the tiny networks are trained on, from the weights that ship.

In a copy of the pack, so that this checkout stays as it is. What a stage has shipped there is kept as one file of less
than 12 MB: `weights-unet.tar`, `weights-experts.tar`, `weights-vae.tar`, to be unpacked in nodes/tinyworld/weights and
evaluated (`regionstyle evaluate tinyworld`) before anybody takes them. The denoiser first, then experts for it, weakest
first, then the decoder: the encoder stays, or everything that knows its latents would have to be trained anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from registry import Run, part

ROOT = Path(__file__).resolve().parents[3]
LARGEST_MB = 12
# What is trained, its share of the time, and the files that come of it.
STAGES = (
    ("unet", 0.5, "unet", "unet.safetensors"),
    ("expert:pixel-art", 0.1, "experts", "experts/tinyworld/pixel-art.safetensors"),
    ("expert:mosaic", 0.1, "experts", "experts/tinyworld/mosaic.safetensors"),
    ("expert:neon", 0.1, "experts", "experts/tinyworld/neon.safetensors"),
    ("decoder", 0.2, "vae", "vae.safetensors"),
)
FILES = {stage: (name, file) for stage, _, name, file in STAGES}
# One process for all, which says what it has done: starting another would cost as much as a stage is worth.
TRAIN = """
import json, logging, sys, time
from pathlib import Path
import torch
from regionstyle.nodes.tinyworld.training import stages
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
wanted, folder, device, seconds, pool, own, dry = json.loads(sys.argv[1])
ends = time.monotonic() + seconds
stages.POOL_SIZE, stages.EXPERT_PICTURES = pool, own

def tell(what, took):
    sys.stdout.write(json.dumps([what, took]) + "\\n")
    sys.stdout.flush()

began = time.monotonic()
run = stages.Run(Path(folder), torch.device(device))
run.pool()
tell("", time.monotonic() - began)
open_shares = sum(share for _, share in wanted)
for stage, share in wanted:
    given = 0.8 * share / open_shares * (ends - time.monotonic())  # the rest: reading, encoding, writing
    open_shares -= share
    if given < 8 and not dry:
        break
    assert stages.run_stage(stage, run, (0.5 if dry else given) / 60)
    tell(stage, 0.5 if dry else given)
"""


@part("training", order=90, seconds=400, dry_seconds=400)
def training(run: Run) -> None:
    copy = run.scratch / "copy"
    pack = copy / "regionstyle"
    for name in ("kernels", "nodes"):
        shutil.copytree(ROOT / name, pack / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__init__.py", pack)
    for stage, took in train(run, copy):
        run.figure(f"{stage}: trained" if stage else "rendering the pictures", took, "s")
        if stage:
            name, file = FILES[stage]
            keep(run, name, pack / "nodes" / "tinyworld" / "weights", file)


def train(run: Run, copy: Path) -> Iterator[tuple[str, float]]:
    """Every stage when its weights are written, and the seconds it was trained; "" when the pictures are there."""
    shares = [(stage, share) for stage, share, _, _ in STAGES]
    counts = (40, 20) if run.dry else (12000, 1000)
    told = json.dumps([shares, str(run.scratch / "training"), run.device, run.left() - 5, *counts, run.dry])
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    line = [sys.executable, "-c", TRAIN, told]
    with subprocess.Popen(line, cwd=copy, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for said in process.stdout:
            stage, took = json.loads(said)
            yield stage, took
    if process.returncode:
        raise RuntimeError(f"training ended with {process.returncode}, see the log")


def keep(run: Run, name: str, weights: Path, file: str) -> None:
    """Put one shipped file into its archive in the results; the archive is there as soon as the stage has ended."""
    archive = run.out / f"weights-{name}.tar"
    with tarfile.open(archive, "a") as files:
        files.add(weights / file, file)
    size = archive.stat().st_size / 1e6
    run.check(f"{archive.name} is below {LARGEST_MB} MB", size < LARGEST_MB, f"{size:.1f} MB")
