"""`regionstyle benchmark`: a paper's protocol on its data set, with the published figures beside what is measured."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

from ...engine.errors import wrong_input
from ...metrics.datasets.catalogue import KINDS, Dataset, load_dataset
from ...metrics.datasets.published import Published
from ...metrics.datasets.samples import HARMONIZATION, REGIONAL, STYLE, STYLES
from ...metrics.harmonization import HarmonizationSettings
from ...metrics.measurement import Measurement
from ...metrics.page import report_page as html
from ...metrics.page.drawing import shown
from ...metrics.regional_style import RegionalStyleSettings
from ..cli.console import console_host
from ..cli.stylize import TINY
from ..pictures import save_image
from .methods import Made, Task, method_of, read_task
from .scores import Instruments, Preference, Questions, Scores, run_samples

Rows = Sequence[tuple[str, Sequence[Measurement]]]
GRID = 4  # samples shown on the page
LEFT_OUT = 8  # samples named when some could not be measured


def run_benchmark(args: argparse.Namespace) -> int:
    """`regionstyle benchmark DATASET --data DIR (--model M | --results DIR)`."""
    _check_options(args)
    styles = _styles(args)
    dataset = load_dataset(args.dataset, args.data, styles, args.limit)
    method, loaded, name = method_of(args, dataset.kind, styles or [s.style for s in dataset.samples])
    scores = Scores(
        dataset.kind,
        _instruments(args, dataset.kind),
        args.style_images,
        _preferences(args),
        _questions(args, dataset),
        *_score_settings(args),
    )
    panels: list[Any] = []
    finished = count(1)
    progress = console_host(args.device).progress(len(dataset.samples), args.dataset)

    def done(task: Task, made: Made | None) -> None:
        progress.update(next(finished))
        if made is None:
            return
        if args.results is None:
            save_image(made.image, args.out / "results" / f"{task.sample.name}.png")
        if len(panels) < 2 * GRID:
            panels.extend([(f"{task.sample.name}: input", task.image[0]), (task.sample.prompt or name, made.image[0])])

    with loaded:
        run_samples([partial(read_task, sample, dataset.kind) for sample in dataset.samples], method, scores, done)
    _write(args, dataset, name, scores, panels)
    return 0


def _score_settings(args: argparse.Namespace) -> tuple[RegionalStyleSettings, HarmonizationSettings]:
    """The options of the regional and of the harmonisation score. RegionStyleError for those of another data set."""
    names = ("margin", "sentence", "background", "pixel_range")
    regional: dict[str, Any] = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    regional |= {"soft": False} if args.hard_mask else {}
    composite: dict[str, Any] = {"size": None} if args.full_resolution else {}
    composite |= {"truth_background": False} if args.own_background else {}
    for kind, given in ((REGIONAL, regional), (HARMONIZATION, composite)):
        if given and KINDS[args.dataset] != kind:
            got = f"options of the {kind} score with {args.dataset}"
            raise wrong_input("options", got, f"a {kind} data set with them", "Leave them out.")
    return RegionalStyleSettings(**regional), HarmonizationSettings(**composite)


def _check_options(args: argparse.Namespace) -> None:
    if args.style_images is not None and not args.style_images.is_dir():
        raise wrong_input("--style-images", str(args.style_images), "a folder of pictures", "Check the path.")
    if KINDS[args.dataset] != REGIONAL and args.vlm:
        raise wrong_input("--vlm", f"it with {args.dataset}", "a regional data set", "Use coco, voc, big or least.")
    if KINDS[args.dataset] != STYLE and (args.pickscore or args.hps or args.style_images):
        got = f"--pickscore, --hps or --style-images with {args.dataset}"
        raise wrong_input("options", got, "a whole-picture data set", "Leave them out, or use pie-bench or lhq.")
    for option in ("networks", "clip", "pickscore", "hps", "vlm"):
        folder = getattr(args, option)
        if folder is not None and not folder.is_dir():
            raise wrong_input(f"--{option}", str(folder), "a folder", "Check the path.")


def _preferences(args: argparse.Namespace) -> list[Preference]:
    """PickScore and HPS v2, where their folders are given."""
    from ...metrics.networks.public import ClipTowers

    device = console_host(args.device).device
    chosen = (("PickScore", args.pickscore, True), ("HPSv2", args.hps, False))
    return [Preference(name, ClipTowers(folder, device), scaled) for name, folder, scaled in chosen if folder]


def _questions(args: argparse.Namespace, dataset: Dataset) -> Questions | None:
    """Q1 to Q4 by a vision-language model, where its folder is given."""
    if args.vlm is None:
        return None
    from ...grounding.finders.vlm import answer_freely, load_vlm

    styles = list(dict.fromkeys(s.style for s in dataset.samples if s.style)) or list(STYLES)
    if len(styles) < 2:
        raise wrong_input("--vlm", f"it with one style ({styles[0]})", "two styles or more", "Q3 and Q4 need another.")
    host = console_host(args.device)
    vlm = load_vlm(args.vlm, host.dtype("text"))
    return Questions(lambda image, words: answer_freely(vlm, image[0], words, host), args.vlm.name, styles)


def _styles(args: argparse.Namespace) -> list[str]:
    """The styles that were asked for; the tiny world's own where its experts paint."""
    if args.style or args.model != TINY or args.dataset not in ("coco", "voc", "big"):
        return list(args.style)
    from ...tinyworld.bundled import expert_files

    return list(expert_files())


def _instruments(args: argparse.Namespace, kind: str) -> Instruments | None:
    """The published networks where folders are given, the stand-ins otherwise; harmonisation needs none."""
    if kind == HARMONIZATION:
        return None
    from ...metrics.networks import public
    from ..metric_networks import LPIPS, TINY_CLASSIFIER, load_networks, tiny_embed, tiny_features
    from ..metric_networks import TINY as STAND_IN

    host = console_host(args.device)
    networks = load_networks(
        STAND_IN if args.clip is None else args.clip.name,
        STAND_IN if args.networks is None else next(iter(LPIPS)),
        args.networks,
        args.clip,
        host.device,
    )
    if args.networks is None or kind != STYLE:
        read = tiny_features()
        return Instruments(networks, tiny_embed(), TINY_CLASSIFIER, lambda x: read(x)[1], TINY_CLASSIFIER)
    return Instruments(
        networks,
        public.load_fid_features(args.networks, host.device),
        "Inception v3 (FID)",
        public.load_cfsd_features(args.networks, host.device),
        "VGG-19 relu3_1",
    )


def _write(args: argparse.Namespace, dataset: Dataset, name: str, scores: Scores, panels: Sequence[Any]) -> None:
    rows = scores.rows()
    args.out.mkdir(parents=True, exist_ok=True)
    made = {
        "dataset": dataset.name,
        "samples": len(dataset.samples),
        "method": name,
        "left_out": scores.left_out,
        "settings": scores.options(),
        "rows": {label: {m.name: m.as_json() for m in found} for label, found in rows},
        "published": _published_json(dataset.published),
    }
    (args.out / "benchmark.json").write_text(json.dumps(made, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    options = ", ".join(f"{option} {value}" for option, value in scores.options().items())
    notes = [html.note(f"Options: {options}."), html.note(_left_out(scores.left_out)) if scores.left_out else ""]
    parts = [_page_table(name, rows), *notes, _published_table(dataset.published, rows), html.grid(panels, 4)]
    page = html.page(f"Benchmark {dataset.name}: {name}", [html.section(dataset.published.source, *parts)])
    (args.out / "benchmark.html").write_text(page, encoding="utf-8")
    sys.stdout.write(as_text(name, rows, dataset.published))
    sys.stdout.write(f"{_left_out(scores.left_out)}\n" if scores.left_out else "")
    sys.stdout.write(f"wrote {args.out / 'benchmark.html'}\n")


def _left_out(samples: Mapping[str, str]) -> str:
    """How many samples were not measured, with the reasons of the first few."""
    shown = [f"{sample}: {why}" for sample, why in list(samples.items())[:LEFT_OUT]]
    more = f"; and {len(samples) - LEFT_OUT} more (benchmark.json)" if len(samples) > LEFT_OUT else ""
    return f"left out {len(samples)}: {'; '.join(shown)}{more}"


def _published_json(published: Published) -> dict[str, Any]:
    rows = {name: dict(zip(published.columns, row, strict=True)) for name, row in published.rows.items()}
    return {"source": published.source, "remark": published.remark, "rows": rows}


def comparable(rows: Rows, published: Published) -> list[str]:
    """The published columns that were measured too, and not with a stand-in."""
    measured = {m.name for _, found in rows for m in found}
    return [column for column in published.columns if column in measured]


def as_text(name: str, rows: Rows, published: Published) -> str:
    """What was measured and what was published, as aligned lines. A stand-in's numbers get no published column."""
    lines = []
    for label, found in rows:
        lines.append(f"{name}, {label} ({found[0].count} pictures)")
        lines += [f"  {m.name:18} {shown(m.value):>12}  {m.backbone}  {m.pixel_range}".rstrip() for m in found]
    columns = comparable(rows, published)
    lines.append(f"published: {published.source}")
    if not columns:
        lines.append("  nothing above is comparable with the published figures")
    for method, row in published.rows.items():
        cells = [
            f"{c} {shown(v)}" for c, v in zip(published.columns, row, strict=True) if c in columns and v is not None
        ]
        if cells:
            lines.append(f"  {method:32} {'  '.join(cells)}")
    return "\n".join([*lines, *([f"  {published.remark}"] if published.remark else [])]) + "\n"


def _page_table(name: str, rows: Rows) -> str:
    body = [
        [f"{name}, {label}", m.name, shown(m.value), m.backbone or "-", m.pixel_range, m.count]
        for label, found in rows
        for m in found
    ]
    return html.table(["measured", "metric", "value", "backbone", "pixels", "pictures"], body)


def _published_table(published: Published, rows: Rows) -> str:
    columns = comparable(rows, published)
    remark = html.note(f"Published: {published.source}. {published.remark}")
    if not columns:
        return remark + html.note("Nothing measured here is comparable with the published figures.")
    picked = [published.columns.index(column) for column in columns]
    body = [[n, *("" if row[i] is None else shown(row[i] or 0.0) for i in picked)] for n, row in published.rows.items()]
    return remark + html.table(["published", *columns], body)
