"""`regionstyle benchmark DATASET --data DIR (--model M | --results DIR)`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..benchmark.benchmark import BenchmarkRequest, run_benchmark
from ..benchmark.methods import MethodRequest
from .console import console_host


def run(args: argparse.Namespace) -> int:
    """Make or read the results, score them, and write the numbers."""
    run_benchmark(benchmark_request(args), console_host(args.device), sys.stdout.write)
    return 0


def benchmark_request(args: argparse.Namespace) -> BenchmarkRequest:
    """What the options ask for."""
    return BenchmarkRequest(
        args.dataset,
        args.data,
        args.out,
        MethodRequest(args.results, args.model, args.expert, args.seed),
        styles=args.style,
        style_images=args.style_images,
        networks=args.networks,
        clip=args.clip,
        vlm=args.vlm,
        pickscore=args.pickscore,
        hps=args.hps,
        regional=_regional(args),
        composite=_composite(args),
        limit=args.limit,
    )


def _regional(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the regional score that were given."""
    names = ("margin", "sentence", "background", "pixel_range")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return given | ({"soft": False} if args.hard_mask else {})


def _composite(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the harmonisation score that were given."""
    given: dict[str, Any] = {"size": None} if args.full_resolution else {}
    return given | ({"truth_background": False} if args.own_background else {})
