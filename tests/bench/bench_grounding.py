"""Times of grounding with SAM's public architecture, random weights: python tests/bench/bench_grounding.py [vit_b ...]

Prints what the first prompt about a picture costs (encode it, then decode a mask) and what every further one costs.
Not a test: nothing here fails.
"""

from __future__ import annotations

import platform
import sys

import torch
from bench_main import median_seconds

from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.sam_network import sam_from_state
from regionstyle.nodes.grounding.finders.sam import SamNetwork, SamPrompt, SamSegmenter, encode


def rows(name: str) -> dict[str, float]:
    """Seconds by part for one of vit_b, vit_l, vit_h, on a picture of 1024 x 768."""
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    host, network = LocalHost(), SamNetwork(sam_from_state(sam_model_registry[name]().state_dict()), name)
    image, prompt = torch.rand(1, 3, 768, 1024), SamPrompt((100, 100, 500, 600))
    embedding = encode(network, image, host)

    def first() -> object:
        return SamSegmenter(encode(network, image, host), host).ask(0, prompt)

    return {
        f"{name}, first prompt on a picture": median_seconds(first, host.device, runs=3),
        f"{name}, every further prompt": median_seconds(
            lambda: SamSegmenter(embedding, host).ask(0, prompt), host.device, runs=9
        ),
    }


def main() -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    sys.stdout.write(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads\n")
    for name in sys.argv[1:] or ["vit_b"]:
        found = rows(name)
        for label, seconds in found.items():
            sys.stdout.write(f"{seconds:8.3f} s  {label}\n")
        first, further = found.values()
        sys.stdout.write(f"{first / further:8.1f} x  {name}, first prompt / further prompt\n")


if __name__ == "__main__":
    main()
