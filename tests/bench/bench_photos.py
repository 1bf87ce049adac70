"""Restyling at full size on the tiny world: time and peak memory by picture and region.

python tests/bench/bench_photos.py [--side 512 --side 1024 ...] [--share 0.1] [--steps 4] [--count] [--device cuda]

A square photograph of each side (default: 512, 1024, 2048, 4096), a region of 10 and of 100 percent of it, the style
mosaic in tiles. Each run is a process of its own, so that its peak memory is its own; "loading" is what it holds
before. Beside the seconds that went by stand those of the processor (user and system, of all threads), which other
processes on a machine do not lengthen much. --count runs nothing and tells the tiles, which the cost goes with.
Prints a table with the machine's name; large pictures take minutes. Not a test: nothing here fails.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import time

SIDES, SHARES = (512, 1024, 2048, 4096), (0.1, 1.0)


def measured(side: int, share: float, steps: int | None, device: str | None, count: bool) -> dict[str, float]:
    """One run in this process: seconds, tiles and MiB; count: the tiles alone."""
    import torch

    from regionstyle.nodes.app.edit import EditSettings, edit
    from regionstyle.nodes.app.local_model import TINY, open_model, tiny_settings_in_tiles
    from regionstyle.nodes.app.measure import peak_memory_mb
    from regionstyle.nodes.app.painters.registry import PainterContext, painter_named
    from regionstyle.nodes.engine.host.base import LocalHost
    from regionstyle.nodes.engine.region.region import Region
    from regionstyle.nodes.router.full_size import TiledWork
    from regionstyle.nodes.tinyworld.backgrounds import photograph

    photo = torch.from_numpy(photograph("astronaut.png")).permute(2, 0, 1)[None]
    photo = torch.nn.functional.interpolate(photo, (side, side), mode="bicubic").clamp(0, 1)
    inner = round(side * math.sqrt(share))
    corner = (side - inner) // 2
    region = Region.of_box("picture", (corner, corner, corner + inner, corner + inner), (side, side), style="mosaic")
    settings = EditSettings(seed=0, detail="full", steps=steps)
    model = open_model(TINY, LocalHost(device), styles=["mosaic"])
    tiles = len(TiledWork(model.predictor, photo, region.mask, tiny_settings_in_tiles("mosaic")).corners)
    if count:
        return {"tiles": tiles}
    loading = peak_memory_mb() or math.nan
    with model.predictor.loaded():
        painter = painter_named("expert", PainterContext(model, settings))
        began, worked = time.perf_counter(), time.process_time()
        edit(photo, [region], painter, settings)
    return {"seconds": time.perf_counter() - began, "processor": time.process_time() - worked, "tiles": tiles,
            "loading": loading, "peak": peak_memory_mb() or math.nan}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, action="append", default=[])
    parser.add_argument("--share", type=float, action="append", default=[])
    parser.add_argument("--steps", type=int, help="of the sampler and of the inversion (default: the style's own)")
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--device")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # one side and share, in this process
    args = parser.parse_args()
    if args.one:
        sys.stdout.write(json.dumps(measured(args.side[0], args.share[0], args.steps, args.device, args.count)))
        return
    steps = "the usual steps" if args.steps is None else f"{args.steps} steps"
    sys.stdout.write(f"{platform.machine()}, full size, mosaic, {steps} and as many of inversion\n")
    sys.stdout.write(" side  region  tiles  seconds  processor s  per tile  MiB at peak  above loading\n")
    for side in args.side or SIDES:
        for share in args.share or SHARES:
            command = [sys.executable, __file__, "--one", "--side", str(side), "--share", str(share)]
            command += ["--steps", str(args.steps)] if args.steps else []
            command += ["--device", args.device] if args.device else []
            command += ["--count"] if args.count else []
            done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            sys.stdout.write(_row(side, share, done))
            sys.stdout.flush()


def _row(side: int, share: float, done: dict[str, float]) -> str:
    start = f"{side:5}  {share:6.0%}  {done['tiles']:5}"
    if "seconds" not in done:
        return f"{start}\n"
    return (
        f"{start}  {done['seconds']:7.1f}  {done['processor']:11.1f}  {done['processor'] / done['tiles']:8.2f}  "
        f"{done['peak']:11.0f}  {done['peak'] - done['loading']:13.0f}\n"
    )


if __name__ == "__main__":
    main()
