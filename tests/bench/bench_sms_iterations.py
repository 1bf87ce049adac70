"""The style matching score by the number of iterations: how good the picture gets, and the order of the parts.

    python tests/bench/bench_sms_iterations.py                         # the full method at 24, 50, 100, 500, 1000
    python tests/bench/bench_sms_iterations.py --parts --iterations 500   # and its parts taken away one by one

Scenes, seeds and measures are those of `regionstyle report --row sms`; each line is written as soon as it is measured.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace

import torch

from regionstyle.nodes.app.metric_networks import tiny_distance, tiny_embed, tiny_text_image
from regionstyle.nodes.app.report import rows_sms
from regionstyle.nodes.app.report.rows import RowContext
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.metrics.distributions import gather_features
from regionstyle.nodes.metrics.networks.networks import MetricNetworks
from regionstyle.nodes.tinyworld.bundled import load_bundled_expert, load_predictor
from regionstyle.nodes.tinyworld.classifier import load_classifier

ITERATIONS = (24, 50, 100, 500, 1000)
METRICS = ("LPIPS-tiny", "style recognised-tiny", "FID-tiny", "ArtFID-tiny", "PSNR to the exact filter")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, nargs="+", default=list(ITERATIONS))
    parser.add_argument(
        "--parts", action="store_true", help="the parts that the paper takes away too, not the full method alone"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one repetition each")
    parser.add_argument("--scenes", type=int, default=rows_sms.SCENES, help="per repetition")
    return parser.parse_args()


def main() -> None:
    """Writes one line per number of iterations and variant: the mean over the repetitions."""
    options = parsed()
    classifier = load_classifier()
    networks = MetricNetworks(tiny_text_image(), tiny_distance(classifier))
    context = RowContext(LocalHost("cpu"), False, tuple(options.seeds), networks, classifier, comfy=False)
    rounds = [rows_sms.pictures_of(at * rows_sms.APART, options.scenes, seed) for at, seed in enumerate(options.seeds)]
    true = rows_sms.pictures_of(rows_sms.FIRST_TRUE, rows_sms.TRUE_SCENES, 0).truth
    features = gather_features(tiny_embed(context.classifier), [rows_sms.patches(true)])
    predictor = load_predictor(context.inner_host(), [load_bundled_expert(rows_sms.STYLE)])
    names = rows_sms.BY_CONTENT if options.parts else (rows_sms.FULL,)
    sys.stdout.write(" | ".join(("iterations", "method", *METRICS, "seconds a picture")) + "\n")
    for iterations in options.iterations:
        for name in names:
            started = time.perf_counter()
            measured = [
                rows_sms.measure(
                    context, pictures, _picture(predictor, pictures, rows_sms.VARIANTS[name], iterations), features
                )
                for pictures in rounds
            ]
            seconds = (time.perf_counter() - started) / len(rounds) / options.scenes
            means = [statistics.fmean(found[metric].value for found in measured) for metric in METRICS]
            cells = (str(iterations), name, *(f"{mean:.3f}" for mean in means), f"{seconds:.1f}")
            sys.stdout.write(" | ".join(cells) + "\n")
            sys.stdout.flush()


def _picture(predictor: object, pictures: rows_sms.Pictures, settings: object, iterations: int) -> torch.Tensor:
    result = rows_sms.matched(predictor, pictures, replace(settings, iterations=iterations))
    return result.float().cpu().clamp(0, 1)


if __name__ == "__main__":
    main()
