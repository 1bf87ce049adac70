"""Times of the main job's parts, on the tiny world: python tests/bench/bench_main.py [--device cuda]

Prints a table (median of five runs after one to warm up) with the machine's name. Not a test: nothing here fails.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch

from regionstyle.nodes.app.evaluation.scenes import as_image, demo_scene
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.grounding.finders.attention_finder import ground_by_attention
from regionstyle.nodes.router.restyle import restyle_region
from regionstyle.nodes.router.settings import RestyleSettings
from regionstyle.nodes.tinyworld.bundled import expert_files, load_bundled_expert, load_predictor


def median_seconds(action: Callable[[], object], device: torch.device, runs: int = 5) -> float:
    """Median wall clock of `runs` runs after one that is not counted."""
    times = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def rows(device: str | None) -> dict[str, float]:
    """Seconds by part."""
    host = LocalHost(device)
    styles = list(expert_files())[:4]
    predictor = load_predictor(host, [load_bundled_expert(style) for style in styles])
    image, mask = as_image(demo_scene(10)), torch.zeros(128, 128)
    mask[40:90, 40:100] = 1
    settings = RestyleSettings(strength=0.2, steps=6, cfg=1.0)

    def restyle(count: int) -> object:
        def gate(region, cut):  # noqa: ANN001, ANN202
            parts = torch.linspace(0, 128, count + 1).long()
            each = [torch.zeros_like(region) for _ in range(count)]
            for piece, low, high in zip(each, parts, parts[1:], strict=False):
                piece[..., low:high] = region[..., low:high]
            return Gates({style: RegionGate(piece) for style, piece in zip(styles, each, strict=False)})

        return restyle_region(predictor, image, mask, "a picture in mosaic style", gate=gate, settings=settings)

    with predictor.loaded():
        found = {
            "load the networks": median_seconds(lambda: load_predictor(host), host.device),
            "find a phrase": median_seconds(
                lambda: ground_by_attention(predictor, image, "orange triangle"), host.device
            ),
        }
        for count in (0, 1, 2, 4):
            label = f"restyle, 8 steps, {count} regional experts"
            found[label] = median_seconds(lambda count=count: restyle(count), host.device)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device")
    args = parser.parse_args()
    machine = (
        torch.cuda.get_device_name()
        if args.device == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    sys.stdout.write(f"torch {torch.__version__}, {machine}\n")
    for name, seconds in rows(args.device).items():
        sys.stdout.write(f"{seconds:8.3f} s  {name}\n")


if __name__ == "__main__":
    main()
