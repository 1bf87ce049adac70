"""`regionstyle benchmark` end to end on miniature data sets: untouched input, finished pictures, the tiny world."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from regionstyle.nodes.app import metric_networks
from regionstyle.nodes.app.benchmark import benchmark
from regionstyle.nodes.app.cli.commands import DATASETS
from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.metrics.datasets.catalogue import KINDS
from regionstyle.nodes.tinyworld.classifier import Classifier

METRICS = Path(__file__).resolve().parents[2] / "metrics"


@pytest.fixture
def layouts(monkeypatch):
    """The writers of miniature data sets."""
    for folder in (METRICS, METRICS / "networks"):
        monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module("test_datasets")
    yield module
    for name in ("test_datasets", "test_public_networks"):
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def random_classifier(monkeypatch):
    """A classifier of random weights: what it says does not matter here."""
    from regionstyle.nodes.tinyworld import classifier

    def load():
        torch.manual_seed(0)
        return Classifier().eval()

    monkeypatch.setattr(classifier, "load_classifier", load)


def run(tmp_path, *arguments):
    out = tmp_path / "out"
    code = main(["benchmark", *map(str, arguments), "--out", str(out), "--device", "cpu"])
    data = out / "benchmark.json"
    return code, json.loads(data.read_text(encoding="utf-8")) if data.is_file() else None


def test_the_command_knows_every_data_set():
    assert tuple(KINDS) == DATASETS


def test_untouched_input_on_iharmony4(tmp_path, layouts, capsys):
    data = tmp_path / "data"
    paths = layouts.write_iharmony4(data)
    (data / "test.jsonl").write_text("\n".join(json.dumps({"file_name": p}) for p in paths), encoding="utf-8")
    code, found = run(tmp_path, "iharmony4", "--data", data, "--model", "unchanged")
    assert code == 0
    everything = found["rows"]["all, foreground all"]
    assert everything["fMSE"]["count"] == 4
    assert everything["fMSE"]["pixel_range"] == "0..255"
    # (200,100,50) against (10,20,30) but for JPEG: (190^2 + 80^2 + 20^2) / 3
    assert everything["fMSE"]["value"] == pytest.approx((190**2 + 80**2 + 20**2) / 3, rel=0.02)
    assert set(found["rows"]) >= {"HCOCO, foreground all", "HFlickr, foreground 15-100 %"} - {
        "HFlickr, foreground 15-100 %"
    }
    text = capsys.readouterr().out
    assert "R2R, HCOCO" in text
    assert "41.9" in text


def test_finished_pictures_on_coco_get_no_published_column_for_stand_ins(tmp_path, layouts, capsys):
    data, results = tmp_path / "data", tmp_path / "results"
    layouts.write_coco(data)
    for name in ("000000000001", "000000000002"):
        layouts.picture(results / f"{name}.png", color=(0, 0, 0))
    code, found = run(tmp_path, "coco", "--data", data, "--results", results)
    assert code == 0
    row = found["rows"]["all"]
    assert row["MSE_bg"]["value"] == pytest.approx((200**2 + 100**2 + 50**2) / 3 / 255**2 * 4, rel=0.05)
    assert {"RSM-tiny", "LPIPS_bg-tiny", "CLIP score-tiny"} <= set(row)
    text = capsys.readouterr().out
    published = text[text.index("published:") :]
    assert "MSE_bg 0.0729" in published
    assert "RSM" not in published
    page = (tmp_path / "out" / "benchmark.html").read_text(encoding="utf-8")
    assert "0.0729" in page
    assert "0.6128" not in page


def test_whole_pictures_get_fid_only_with_pictures_of_the_style(tmp_path, layouts):
    data, styles = tmp_path / "lhq", tmp_path / "styles"
    for i in range(3):
        layouts.picture(data / f"{i}.png", (40, 40), (40 * i, 10, 90))
        layouts.picture(styles / f"{i}.png", (40, 40), (10, 40 * i, 90))
    code, found = run(tmp_path, "lhq", "--data", data, "--model", "unchanged")
    assert code == 0
    assert found["rows"]["all"]["LPIPS-tiny"]["value"] == 0
    assert found["rows"]["all"]["CFSD-tiny"]["value"] == pytest.approx(0, abs=1e-6)
    assert "FID-tiny" not in found["rows"]["all"]
    _, found = run(tmp_path, "lhq", "--data", data, "--model", "unchanged", "--style-images", styles)
    row = found["rows"]["all"]
    assert row["FID-tiny"]["value"] > 0
    assert row["ArtFID-tiny"]["value"] == pytest.approx(1 + row["FID-tiny"]["value"])


@pytest.mark.slow
def test_the_tiny_world_restyles_a_data_set(tmp_path, layouts):
    data = tmp_path / "data"
    layouts.write_coco(data)
    code, found = run(tmp_path, "coco", "--data", data, "--model", "tinyworld", "--style", "mosaic", "--limit", 1)
    assert code == 0
    assert found["samples"] == 1
    made = tmp_path / "out" / "results" / "000000000001.png"
    assert Image.open(made).size == (40, 30)
    again, _ = run(tmp_path, "coco", "--data", data, "--results", made.parent, "--limit", 1)
    assert again == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["realhm", "--model", "tinyworld"], "harmonises nothing"),
        (["coco", "--results", "nowhere"], "--results"),
        (["coco", "--model", "unchanged", "--expert", "x.safetensors"], "--expert"),
        (["coco", "--model", "unchanged", "--networks", "nowhere"], "--networks"),
        (["coco", "--model", "unchanged", "--style-images", "nowhere"], "--style-images"),
        (["coco", "--model", "unchanged", "--clip", "."], "no config.json"),
        (["coco", "--model", "unchanged", "--pickscore", "."], "whole-picture"),
        (["realhm", "--model", "unchanged", "--vlm", "."], "regional"),
        (["realhm", "--model", "unchanged", "--margin", "0.2"], "regional score with realhm"),
        (["coco", "--model", "unchanged", "--own-background"], "harmonization score with coco"),
        (["coco", "--model", "unchanged", "--sentence", "a picture"], "{style}"),
    ],
)
def test_wrong_options_are_named(tmp_path, layouts, capsys, arguments, says):
    data = tmp_path / "data"
    if arguments[0] == "coco":
        layouts.write_coco(data)
    else:
        for kind in ("composite", "gt"):
            layouts.picture(data / f"7_{kind}.jpg")
        layouts.mask_file(data / "7_mask.jpg")
    code, _ = run(tmp_path, arguments[0], "--data", data, *arguments[1:])
    assert code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("--pixel-range", "0..7", "'0..1', '-1..1', '0..255'"), ("--background", "crop", "map")],
)
def test_a_choice_that_is_none_is_refused_before_any_work(capsys, option, value, says):
    with pytest.raises(SystemExit) as end:
        main(["benchmark", "coco", "--data", "nowhere", "--model", "unchanged", option, value])
    assert end.value.code == 2
    assert says in capsys.readouterr().err


def test_options_of_the_regional_score_reach_it(tmp_path, layouts):
    data, results = tmp_path / "data", tmp_path / "results"
    layouts.write_coco(data)
    for name in ("000000000001", "000000000002"):
        layouts.picture(results / f"{name}.png", color=(0, 0, 0))
    _, usual = run(tmp_path, "coco", "--data", data, "--results", results)
    options = ("--pixel-range", "0..1", "--margin", "0.5", "--sentence", "{style}", "--background", "fill")
    _, found = run(tmp_path, "coco", "--data", data, "--results", results, *options, "--hard-mask")
    assert found["settings"] == {
        "margin": 0.5, "sentence": "{style}", "background": "fill", "pixel_range": "0..1", "soft": False,
    }  # fmt: skip
    assert usual["rows"]["all"]["MSE_bg"]["value"] == pytest.approx(4 * found["rows"]["all"]["MSE_bg"]["value"])
    assert usual["rows"]["all"]["RSM-tiny"]["value"] != found["rows"]["all"]["RSM-tiny"]["value"]


def test_options_of_the_harmonisation_score_reach_it(tmp_path, layouts):
    data = tmp_path / "data"
    paths = layouts.write_iharmony4(data, ("c100_7_1",))
    (data / "test.jsonl").write_text(json.dumps({"file_name": paths[0]}), encoding="utf-8")
    _, usual = run(tmp_path, "iharmony4", "--data", data, "--model", "unchanged")
    _, found = run(tmp_path, "iharmony4", "--data", data, "--model", "unchanged", "--own-background")
    _, large = run(tmp_path, "iharmony4", "--data", data, "--model", "unchanged", "--full-resolution")
    mse = [x["rows"]["all, foreground all"]["MSE"]["value"] for x in (usual, found, large)]
    # unlike everywhere: with its own background the whole picture is as wrong as the foreground, 180 of 1200 pixels
    assert mse[1] == pytest.approx(usual["rows"]["all, foreground all"]["fMSE"]["value"], rel=0.01)
    assert mse[2] == pytest.approx(0.15 * mse[1], rel=0.01)
    assert large["settings"] == {"size": None, "truth_background": True}


def test_a_sample_without_region_is_left_out_and_named(tmp_path, layouts, capsys):
    data = tmp_path / "big"
    for name in ("a", "b", "c"):
        layouts.picture(data / f"{name}_im.jpg")
    layouts.mask_file(data / "a_gt.png")
    layouts.mask_file(data / "b_gt.png", (0, 0, 0, 0))
    layouts.mask_file(data / "c_gt.png", (0, 0, 40, 30))
    code, found = run(tmp_path, "big", "--data", data, "--model", "unchanged")
    assert code == 0
    assert found["left_out"] == {"b": "its mask is empty", "c": "its mask leaves no background"}
    assert found["rows"]["all"]["MSE_bg"]["count"] == 1
    assert "left out 2: b: its mask is empty" in capsys.readouterr().out
    assert "left out 2: b" in (tmp_path / "out" / "benchmark.html").read_text(encoding="utf-8")
    for name in ("a", "c"):
        (data / f"{name}_im.jpg").unlink()
    assert run(tmp_path, "big", "--data", data, "--model", "unchanged")[0] == 2
    assert "no sample that can be measured (its mask is empty)" in capsys.readouterr().err


def test_a_composite_without_region_is_left_out(tmp_path, layouts):
    data = tmp_path / "data"
    paths = layouts.write_iharmony4(data, ("c100_7_1", "f1_1_1"))
    (data / "test.jsonl").write_text("\n".join(json.dumps({"file_name": p}) for p in paths), encoding="utf-8")
    layouts.mask_file(data / "HCOCO" / "masks" / "c100_7.png", (0, 0, 0, 0))
    code, found = run(tmp_path, "iharmony4", "--data", data, "--model", "unchanged")
    assert code == 0
    assert found["left_out"] == {"c100_7_1": "its mask is empty"}
    assert "HFlickr, foreground all" in found["rows"]
    assert "HCOCO, foreground all" not in found["rows"]


def test_a_result_that_is_missing_is_named(tmp_path, layouts, capsys):
    data, results = tmp_path / "data", tmp_path / "results"
    layouts.write_coco(data)
    layouts.picture(results / "000000000001.png")
    assert run(tmp_path, "coco", "--data", data, "--results", results)[0] == 2
    assert "000000000002" in capsys.readouterr().err


def test_least_needs_a_region(tmp_path, layouts, capsys):
    data, results = tmp_path / "data", tmp_path / "results"
    layouts.picture(data / "dataset" / "ducks.jpeg")
    (data / "prompts.json").write_text('{"ducks.jpeg": ["apply cubism style to the duck"]}', encoding="utf-8")
    layouts.picture(results / "ducks_0.png")
    assert run(tmp_path, "least", "--data", data, "--results", results)[0] == 2
    assert "ducks_0" in capsys.readouterr().err
    layouts.mask_file(data / "masks" / "ducks_0.png")
    code, found = run(tmp_path, "least", "--data", data, "--results", results)
    assert code == 0
    assert found["rows"]["all"]["CLIP score-tiny"]["count"] == 1


def test_preference_scores_read_the_prompt(tmp_path, layouts):
    """A small CLIP in PickScore's and HPS v2's place: the temperature belongs to the first only."""
    save_clip = importlib.import_module("test_public_networks").save_clip
    model, _ = save_clip(tmp_path / "clip-small")
    for i in range(2):
        layouts.picture(tmp_path / "lhq" / f"{i}.png", (40, 40), (90 * i, 10, 90))
    folder = tmp_path / "clip-small"
    code, found = run(
        tmp_path, "lhq", "--data", tmp_path / "lhq", "--model", "unchanged", "--style", "mosaic",
        "--pickscore", folder, "--hps", folder,
    )  # fmt: skip
    assert code == 0
    row = found["rows"]["all"]
    assert row["PickScore"]["backbone"] == "clip-small"
    ratio = float(model.logit_scale.detach().exp())
    assert row["PickScore"]["value"] == pytest.approx(ratio * row["HPSv2"]["value"], rel=1e-5)


def test_questions_are_asked_about_the_thing_and_another_style():
    from regionstyle.nodes.app.benchmark.methods import Task
    from regionstyle.nodes.app.benchmark.scores import Questions
    from regionstyle.nodes.metrics.datasets.samples import STYLES, Sample

    asked = []

    def ask(image, words):
        asked.append(words)
        return "yes" if len(asked) == 1 else "no"

    questions = Questions(ask, "vlm", STYLES)
    task = Task(Sample("x", Path("x.png")), torch.rand(1, 3, 8, 8), None, "dog", "cyberpunk")
    assert [m.value for m in questions.measure(task.image, task)] == [1, 0, 0, 0]
    assert ["cyberpunk" in words for words in asked] == [True, True, False, False]
    assert all("line-art" in words for words in asked[2:])
    assert all("dog" in words for words in asked)
    assert all(questions.opposite(style) != style for style in (*STYLES, "other"))
    assert Questions(ask, "vlm", ("a", "b")).opposite("b") == "a"


@pytest.mark.slow
def test_a_model_that_answers_anything_else_is_named(tmp_path, layouts, capsys):
    from tiny_networks import save_tiny_llava

    data = tmp_path / "data"
    layouts.write_coco(data)
    folder = save_tiny_llava(tmp_path / "llava-tiny", ["Does it show style? Answer with one word, yes or no."])
    assert run(tmp_path, "coco", "--data", data, "--model", "unchanged", "--vlm", folder)[0] == 2
    assert "expected yes or no" in capsys.readouterr().err


def test_only_columns_that_were_measured_alike_are_comparable():
    from regionstyle.nodes.metrics.datasets.published import COCO
    from regionstyle.nodes.metrics.measurement import Measurement

    rows = [("all", [Measurement("RSM-tiny", 1, "x-tiny"), Measurement("MSE_bg", 1, "", "-1..1")])]
    assert benchmark.comparable(rows, COCO) == ["MSE_bg"]
    assert metric_networks.TINY == "tiny world"
