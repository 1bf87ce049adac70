"""The report: spreads, plots, the page in a browser, and the baselines on the tiny world."""

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from regionstyle.nodes.app.cli.main import build_parser, main
from regionstyle.nodes.app.metric_networks import tiny_distance, tiny_embed, tiny_text_image
from regionstyle.nodes.app.report import plots as report_plots
from regionstyle.nodes.app.report import report
from regionstyle.nodes.app.report import rows_baselines as report_baselines
from regionstyle.nodes.app.report.comfy_hook_lora import hook_lora_workflow
from regionstyle.nodes.app.report.rows import Row, RowContext, RowResult, all_rows, chosen_rows, row, spread_of, spreads
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import Cancelled, LocalHost
from regionstyle.nodes.metrics.measurement import Measurement
from regionstyle.nodes.metrics.networks.networks import MetricNetworks
from regionstyle.nodes.tinyworld.classifier import Classifier

HOSTILE = "<script>alert(1)</script> & co"


def numbers(*values, name="RSM-tiny"):
    return [Measurement(name, value, "clip-tiny", "0..1", 5) for value in values]


def made_up(count=3):
    """A result with every kind of cell: ordinary, infinite, absent, a name that HTML must escape."""
    values = {
        "ours": {"RSM-tiny": numbers(0.6, 0.62, 0.64), "PSNR": numbers(*[float("inf")] * 3, name="PSNR")},
        "<script>alert(1)</script> & co": {
            "RSM-tiny": numbers(0.5, 0.5, 0.5),
            "PSNR": numbers(20, 22, 24, name="PSNR"),
        },
    }
    panels = [(f"picture {i}", torch.rand(3, 16, 16)) for i in range(count)]
    return RowResult(values, {"hook LoRA": "no ComfyUI"}, panels, ["remark with <b>"])


def measured():
    return [
        report.Measured(Row("made-up", "A made-up row", "Paper, section 1", lambda context: made_up()), made_up(), 1.5)
    ]


def test_spread_is_mean_and_sample_deviation():
    found = spread_of(numbers(1, 2, 6))
    assert (found.mean, found.deviation) == (pytest.approx(3), pytest.approx(7**0.5))
    assert (found.repetitions, found.count, found.backbone) == (3, 15, "clip-tiny")
    with pytest.raises(RegionStyleError, match="3 or more"):
        spread_of(numbers(1, 2))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-3, 42, [-10, 0, 10, 20, 30, 40, 50]), (0, 0, None)],
)
def test_ticks_are_round_and_reach_both_ends(low, high, expected):
    found = report_plots.ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert expected is None or found == pytest.approx(expected)


def test_a_plot_is_well_formed_and_shows_every_method():
    found = {m: v["PSNR"] for m, v in spreads(made_up()).items()}
    svg = ElementTree.fromstring(report_plots.dot_plot("PSNR", found))
    texts = [t.text for t in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"ours", HOSTILE, "inf"} <= set(texts)
    circles = list(svg.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == 1  # the infinite one has no place
    width = float(svg.get("width"))
    assert width / 3 < float(circles[0].get("cx")) < width


def test_files_hold_everything(tmp_path):
    page, data = report.write_report(measured(), tmp_path, {"seeds": "0, 1, 2"})
    text = page.read_text(encoding="utf-8")
    assert "0.620 ± 0.020" in text
    assert "22.0 ± 2.0" in text
    assert "0.5 ± 0<" in text
    assert "inf ± nan" in text
    assert "Not run: hook LoRA (no ComfyUI)" in text
    assert "RSM-tiny ↑" in text
    assert "RSM-tiny (clip-tiny, pixels 0..1)" in text
    assert "<script>" not in text
    assert text.count("data:image/png;base64,") == 3
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    (found,) = json.loads(data.read_text(encoding="utf-8"))["rows"]
    assert found["methods"]["ours"]["RSM-tiny"]["mean"] == pytest.approx(0.62)
    assert found["methods"]["ours"]["PSNR"]["mean"] == "inf"
    assert found["absent"] == {"hook LoRA": "no ComfyUI"}


needs_browser = pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None or shutil.which("chromium") is None,
    reason="needs the Python package playwright and a chromium",
)


@pytest.mark.slow
@needs_browser
def test_a_browser_shows_it_without_complaint(tmp_path):
    from playwright.sync_api import sync_playwright

    page_file, _ = report.write_report(measured(), tmp_path, {"seeds": "0"})
    complaints, requests = [], []
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url[:80]))
        page.on("request", lambda request: requests.append(request.url[:60]))
        page.goto(page_file.as_uri())
        assert page.locator("table").count() == 2
        assert page.locator("svg").count() == 2
        assert page.locator("img").count() == 3
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth === 16)")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        browser.close()
    assert complaints == []
    assert all(url.startswith(("file:", "data:")) for url in requests)


def test_rows_are_registered_once_and_named_in_errors():
    assert "baselines" in all_rows()
    assert [r.name for r in chosen_rows([])] == list(all_rows())
    with pytest.raises(RegionStyleError, match="baselines"):
        chosen_rows(["nothing"])
    with pytest.raises(ValueError, match="already registered"):
        row("baselines", title="", paper="")(lambda context: made_up())


def test_a_new_module_brings_its_rows_without_any_other_change(monkeypatch, tmp_path):
    """A file rows_*.py in the package's folder is enough, and it comes where its name says."""
    from regionstyle.nodes.app import report as package
    from regionstyle.nodes.app.report import rows as report_rows

    text = (
        "from regionstyle.nodes.app.report.rows import row\n"
        "@row('made-elsewhere', title='Found', paper='Some paper')\n"
        "def found(context): ...\n"
    )
    (tmp_path / "rows_aaa.py").write_text(text, encoding="utf-8")
    (tmp_path / "other_aaa.py").write_text("raise ValueError('not a row module')", encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setattr(report_rows, "ROWS", dict(report_rows.ROWS))
    assert report_rows.row_modules()[0] == "rows_aaa"
    assert "made-elsewhere" in all_rows()
    sys.modules.pop(f"{package.__name__}.rows_aaa")


def test_list_prints_the_rows(capsys):
    assert main(["report", "--list"]) == 0
    assert "baselines" in capsys.readouterr().out


def test_minutes_of_training_are_refused_where_no_row_trains(capsys, tmp_path):
    assert main(["report", "--row", "least", "--train-minutes", "5", "--out", str(tmp_path / "report")]) == 2
    assert "Add --row editing" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_two_repetitions_are_too_few(capsys):
    assert main(["report", "--repetitions", "2"]) == 2
    assert "3 or more" in capsys.readouterr().err


def test_a_missing_classifier_is_one_clear_error(monkeypatch, tmp_path, capsys):
    from regionstyle.nodes.tinyworld import bundled

    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    assert main(["report", "--out", str(tmp_path / "out")]) == 2
    assert "classifier.safetensors is missing" in capsys.readouterr().err


def random_classifier():
    torch.manual_seed(0)
    return Classifier().eval()


def test_tiny_features_take_any_size():
    distance, embed = tiny_distance(random_classifier()), tiny_embed(random_classifier())
    for size in ((7, 9), (33, 64), (128, 128)):
        a, b = torch.rand(2, 3, *size), torch.rand(2, 3, *size)
        assert distance(a, a).abs().max() == 0
        assert (distance(a, b) > 0).all()
        assert distance.map(a, b).shape == (2, *size)
        assert embed(a).shape == (2, 192)


def context(**changes):
    classifier = random_classifier()
    networks = MetricNetworks(tiny_text_image(), tiny_distance(classifier))
    return replace(RowContext(LocalHost("cpu"), True, (0, 1, 2), networks, classifier, comfy=False), **changes)


@pytest.mark.slow
def test_baselines_on_the_tiny_world(monkeypatch, tmp_path):
    monkeypatch.setattr(report_baselines, "QUICK_SCENES", 1)
    measured = report.run_rows([all_rows()["baselines"]], context())
    found = spreads(measured[0].result)
    assert set(found) == {*report_baselines.METHODS, report_baselines.COMPOSITE}
    assert len(measured[0].result.panels) == measured[0].result.columns == len(found) + 1  # one task, and the truth
    assert measured[0].result.absent == {report_baselines.HOOKS: "switched off"}
    whole, mixed, ours = (found[m] for m in (report_baselines.WHOLE, report_baselines.COMPOSITE, report_baselines.OURS))
    assert whole["background equal"].mean < 0.5
    assert mixed["background equal"].mean == ours["background equal"].mean == 1
    assert whole["MSE_bg"].mean > 5 * ours["MSE_bg"].mean
    assert found[report_baselines.UNCHANGED]["MSE_bg"].mean == 0
    assert len({s.repetitions for v in found.values() for s in v.values()}) == 1
    report.write_report(measured, tmp_path, {})


@pytest.mark.slow
def test_the_same_seeds_give_the_same_numbers(monkeypatch):
    monkeypatch.setattr(report_baselines, "QUICK_SCENES", 1)
    monkeypatch.setattr(report_baselines, "METHODS", {report_baselines.OURS: report_baselines.given_mask})
    first, second = (report_baselines.baselines(context()).values for _ in range(2))
    assert first == second
    other = report_baselines.baselines(context(seeds=(7, 8, 9))).values
    assert other != first


def test_cancel_stops_between_pictures(monkeypatch):
    monkeypatch.setattr(report_baselines, "QUICK_SCENES", 1)
    seen = []
    monkeypatch.setattr(report_baselines, "METHODS", {"m": lambda predictor, task: seen.append(1) or task.image})
    host = LocalHost("cpu", cancelled=lambda: len(seen) >= 2)
    with pytest.raises(Cancelled):
        report_baselines.baselines(context(host=host))
    assert len(seen) == 2


def test_repetitions_have_their_own_scenes():
    rounds = [report_baselines.tasks_of(i, i, 2, ("mosaic", "neon")) for i in range(3)]
    pictures = {task.image.numpy().tobytes() for tasks in rounds for task in tasks}
    assert len(pictures) == 6
    assert {task.style for task in rounds[0]} == {"mosaic", "neon"}


def test_hook_workflow_masks_the_styled_prompt():
    task = report_baselines.tasks_of(0, 5, 1, ("mosaic",))[0]
    made = hook_lora_workflow("a.png", "b.png", "tinyworld/mosaic.safetensors", task)
    styled = made["8"]["inputs"]
    assert made[styled["mask"][0]]["inputs"]["image"] == "b.png"
    assert made[styled["hooks"][0]]["inputs"]["lora_name"] == "tinyworld/mosaic.safetensors"
    assert made["11"]["inputs"]["seed"] == 5
    links = [v[0] for node in made.values() for v in node["inputs"].values() if isinstance(v, list)]
    assert set(links) <= set(made)


@pytest.mark.slow
@pytest.mark.comfy
def test_hook_lora_in_comfyui(comfy_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(comfy_path))
    task = report_baselines.tasks_of(0, 0, 1, ("mosaic",))[0]
    with report_baselines.ComfyHookLora() as hooks:
        result = hooks.restyle(None, task)
        again = hooks.restyle(None, task)
    assert result.shape == task.image.shape
    assert torch.equal(result, again)
    change = (result - task.image).abs().mean(1)[0]
    assert change.mean() > 0.005


def test_commands_are_described():
    text = build_parser().format_help()
    assert "report" in text
    assert "benchmark" in text
