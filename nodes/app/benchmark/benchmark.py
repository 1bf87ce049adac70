"""`regionstyle benchmark`: a paper's protocol on its data set, with the published figures beside what is measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from ...engine.errors import wrong_input
from ...engine.host.base import Host
from ...metrics.datasets.catalogue import KINDS, Dataset, load_dataset
from ...metrics.datasets.published import Published
from ...metrics.datasets.samples import HARMONIZATION, REGIONAL, STYLE, STYLES
from ...metrics.harmonization import HarmonizationSettings
from ...metrics.measurement import Measurement
from ...metrics.page import report_page as html
from ...metrics.page.drawing import shown
from ...metrics.regional_style import RegionalStyleSettings
from ..edit import EditResult
from ..local_model import TINY, known_styles
from ..pictures import save_image
from .methods import MethodRequest, Task, method_of, read_task
from .scores import Instruments, Preference, Questions, Scores, run_samples

Rows = Sequence[tuple[str, Sequence[Measurement]]]
GRID = 4  # samples shown on the page
LEFT_OUT = 8  # samples named when some could not be measured


@dataclass(frozen=True)
class BenchmarkRequest:
    """What is measured, with what, and where the numbers go; folders are None where they are not given.

    dataset: a name of the catalogue, unpacked in `data`; out: the folder for the numbers; method: what makes the
    results; styles: instead of the paper's; style_images: pictures of the style, for FID and ArtFID; networks and clip:
    public networks (None: the stand-ins); vlm, pickscore, hps: folders of further judges; regional and composite:
    options of the scores that differ from their defaults; limit: only the first samples.
    """

    dataset: str
    data: Path
    out: Path
    method: MethodRequest
    styles: Sequence[str] = ()
    style_images: Path | None = None
    networks: Path | None = None
    clip: Path | None = None
    vlm: Path | None = None
    pickscore: Path | None = None
    hps: Path | None = None
    regional: Mapping[str, Any] = field(default_factory=dict)
    composite: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None


def run_benchmark(request: BenchmarkRequest, host: Host, say: Callable[[str], object]) -> None:
    """Make or read every result, score it, and write benchmark.json and benchmark.html; say: takes what to print."""
    _check_options(request)
    styles = _styles(request)
    dataset = load_dataset(request.dataset, request.data, styles, request.limit)
    named = styles or [sample.style for sample in dataset.samples]
    method, loaded, name = method_of(request.method, dataset.kind, named, host)
    scores = Scores(
        dataset.kind,
        _instruments(request, dataset.kind, host),
        request.style_images,
        _preferences(request, host),
        _questions(request, dataset, host),
        *_score_settings(request),
    )
    panels: list[Any] = []
    finished = count(1)
    progress = host.progress(len(dataset.samples), request.dataset)

    def done(task: Task, result: EditResult | None) -> None:
        progress.update(next(finished))
        if result is None:
            return
        if request.method.results is None:
            save_image(result.image, request.out / "results" / f"{task.sample.name}.png")
        if len(panels) < 2 * GRID:
            words = task.sample.prompt or name
            panels.extend([(f"{task.sample.name}: input", task.image[0]), (words, result.image[0])])

    with loaded:
        run_samples([partial(read_task, sample, dataset.kind) for sample in dataset.samples], method, scores, done)
    rows = scores.rows()
    _write(request.out, dataset, name, rows, scores, panels)
    say(as_text(name, rows, dataset.published))
    say(f"{_left_out(scores.left_out)}\n" if scores.left_out else "")
    say(f"wrote {request.out / 'benchmark.html'}\n")


def _score_settings(request: BenchmarkRequest) -> tuple[RegionalStyleSettings, HarmonizationSettings]:
    """The options of the regional and of the harmonisation score. RegionStyleError for those of another data set."""
    for kind, given in ((REGIONAL, request.regional), (HARMONIZATION, request.composite)):
        if given and KINDS[request.dataset] != kind:
            got = f"options of the {kind} score with {request.dataset}"
            raise wrong_input("options", got, f"a {kind} data set with them", "Leave them out.")
    return RegionalStyleSettings(**request.regional), HarmonizationSettings(**request.composite)


def _check_options(request: BenchmarkRequest) -> None:
    kind = KINDS[request.dataset]
    if request.style_images is not None and not request.style_images.is_dir():
        raise wrong_input("--style-images", str(request.style_images), "a folder of pictures", "Check the path.")
    if kind != REGIONAL and request.vlm:
        raise wrong_input("--vlm", f"it with {request.dataset}", "a regional data set", "Use coco, voc, big or least.")
    if kind != STYLE and (request.pickscore or request.hps or request.style_images):
        got = f"--pickscore, --hps or --style-images with {request.dataset}"
        raise wrong_input("options", got, "a whole-picture data set", "Leave them out, or use pie-bench or lhq.")
    for option in ("networks", "clip", "pickscore", "hps", "vlm"):
        folder = getattr(request, option)
        if folder is not None and not folder.is_dir():
            raise wrong_input(f"--{option}", str(folder), "a folder", "Check the path.")


def _preferences(request: BenchmarkRequest, host: Host) -> list[Preference]:
    """PickScore and HPS v2, where their folders are given."""
    from ...metrics.networks.public import ClipTowers

    chosen = (("PickScore", request.pickscore, True), ("HPSv2", request.hps, False))
    return [Preference(name, ClipTowers(folder, host.device), scaled) for name, folder, scaled in chosen if folder]


def _questions(request: BenchmarkRequest, dataset: Dataset, host: Host) -> Questions | None:
    """Q1 to Q4 by a vision-language model, where its folder is given."""
    if request.vlm is None:
        return None
    from ...grounding.finders.vlm import answer_freely, load_vlm

    styles = list(dict.fromkeys(s.style for s in dataset.samples if s.style)) or list(STYLES)
    if len(styles) < 2:
        raise wrong_input("--vlm", f"it with one style ({styles[0]})", "two styles or more", "Q3 and Q4 need another.")
    vlm = load_vlm(request.vlm, host.dtype("text"))
    return Questions(lambda image, words: answer_freely(vlm, image[0], words, host), request.vlm.name, styles)


def _styles(request: BenchmarkRequest) -> list[str]:
    """The styles that were asked for; the tiny world's own where its experts paint."""
    if request.styles or request.method.model != TINY or request.dataset not in ("coco", "voc", "big"):
        return list(request.styles)
    return known_styles(TINY) or []


def _instruments(request: BenchmarkRequest, kind: str, host: Host) -> Instruments | None:
    """The published networks where folders are given, the stand-ins otherwise; harmonisation needs none."""
    if kind == HARMONIZATION:
        return None
    from ...metrics.networks import public
    from ..metric_networks import LPIPS, TINY_CLASSIFIER, load_networks, tiny_embed, tiny_features
    from ..metric_networks import TINY as STAND_IN

    networks = load_networks(
        STAND_IN if request.clip is None else request.clip.name,
        STAND_IN if request.networks is None else next(iter(LPIPS)),
        request.networks,
        request.clip,
        host.device,
    )
    if request.networks is None or kind != STYLE:
        read = tiny_features()
        return Instruments(networks, tiny_embed(), TINY_CLASSIFIER, lambda x: read(x)[1], TINY_CLASSIFIER)
    return Instruments(
        networks,
        public.load_fid_features(request.networks, host.device),
        "Inception v3 (FID)",
        public.load_cfsd_features(request.networks, host.device),
        "VGG-19 relu3_1",
    )


def _write(out: Path, dataset: Dataset, name: str, rows: Rows, scores: Scores, panels: Sequence[Any]) -> None:
    """benchmark.json and benchmark.html."""
    out.mkdir(parents=True, exist_ok=True)
    numbers = {
        "dataset": dataset.name,
        "samples": len(dataset.samples),
        "method": name,
        "left_out": scores.left_out,
        "settings": scores.options(),
        "rows": {label: {m.name: m.as_json() for m in measurements} for label, measurements in rows},
        "published": _published_json(dataset.published),
    }
    (out / "benchmark.json").write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    options = ", ".join(f"{option} {value}" for option, value in scores.options().items())
    notes = [html.note(f"Options: {options}."), html.note(_left_out(scores.left_out)) if scores.left_out else ""]
    parts = [_page_table(name, rows), *notes, _published_table(dataset.published, rows), html.grid(panels, 4)]
    page = html.page(f"Benchmark {dataset.name}: {name}", [html.section(dataset.published.source, *parts)])
    (out / "benchmark.html").write_text(page, encoding="utf-8")


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
    measured = {m.name for _, measurements in rows for m in measurements}
    return [column for column in published.columns if column in measured]


def as_text(name: str, rows: Rows, published: Published) -> str:
    """What was measured and what was published, as aligned lines. A stand-in's numbers get no published column."""
    lines = []
    for label, measurements in rows:
        lines.append(f"{name}, {label} ({measurements[0].count} pictures)")
        lines += [f"  {m.name:18} {shown(m.value):>12}  {m.backbone}  {m.pixel_range}".rstrip() for m in measurements]
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
        for label, measurements in rows
        for m in measurements
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
