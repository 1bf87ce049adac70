"""The measuring nodes in ComfyUI: what they give, and what they refuse."""

import pytest

SCRIPT = """
import torch
import folder_paths
from regionstyle.nodes.metrics.comfy.metric_nodes import Compare, MaskIoU, SaveReport, Score
from regionstyle.nodes.metrics.networks.networks import MetricNetworks
from regionstyle.nodes.metrics.networks.perceptual import PerceptualDistance
from regionstyle.nodes.app.comfyui.metric_nodes import MetricNetworksLoader

class Colour:
    backbone, scale = "colour-tiny", 1.0
    def embed_images(self, images):
        return torch.nn.functional.normalize(images.mean((2, 3)), dim=-1)
    def embed_texts(self, texts):
        return torch.tensor([[1.0, 0, 0] if "red" in t else [0, 1.0, 0] for t in texts])

networks = MetricNetworks(Colour(), PerceptualDistance(lambda x: [x], "identity-tiny"))

def refused(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["none", ""]

# 0.3.64 wants the hidden inputs to be there for a preview
for node in (Score, Compare):
    node.hidden = None
with torch.inference_mode():
    before = torch.full((1, 24, 32, 3), 0.5)
    mask = torch.zeros(1, 24, 32)
    mask[:, 4:12, 4:16] = 1
    after = before.repeat(2, 1, 1, 1)
    after[:, 4:12, 4:16] = torch.tensor([1.0, 0, 0])
    after[1, 0, 0] = 1
    scored = Score.execute(networks, before, after, mask, "red\\ngreen", margin=0.0).result
    worded = Score.execute(networks, before, after, mask, "blue", margin=0.0, sentence="red {style}").result
    grid = Compare.execute(before, "source", "a title", 0, 64, image_2=after, image_3=None).result[0]
    iou = MaskIoU.execute(mask, torch.roll(mask, 6, -1)).result
    first = SaveReport.execute(scored[4], "sub/report", grid).result[0]
    second = SaveReport.execute(scored[4], "sub/report").result[0]
    seen = {
        "numbers": scored[:3], "worded": worded[0], "table": list(scored[3].shape), "report": json.loads(scored[4]),
        "grid": list(grid.shape), "iou": iou[0], "lines": iou[1], "paths": [first, second],
        "page": open(first).read(), "untouched": bool((before == 0.5).all()),
        "choices": [i.options for i in MetricNetworksLoader.define_schema().inputs],
        "refused": [
            refused(lambda: Score.execute(networks, before, after[:, :20], mask, "red")),
            refused(lambda: Score.execute(networks, before, after, torch.ones(24, 32), "red")),
            refused(lambda: Score.execute(networks, before, after, mask, "a\\nb\\nc")),
            refused(lambda: Score.execute(networks, before, after, mask, "red", background="half")),
            refused(lambda: SaveReport.execute("no json", "x")),
            refused(lambda: Compare.execute(before, "a\\nb\\nc", side=64)),
            refused(lambda: MetricNetworksLoader.execute("tiny world", "LPIPS alex")),
            refused(lambda: MetricNetworksLoader.execute("nothing", "tiny world")),
            refused(lambda: Score.execute(networks, before, after, mask, "red", sentence="no place for it")),
            refused(lambda: MaskIoU.execute(mask, mask, 1.0)),
            refused(lambda: Score.execute(networks, before * float("nan"), after, mask, "red")),
            refused(lambda: Score.execute(networks, before, after, mask.repeat(3, 1, 1), "red")),
            refused(lambda: Score.execute(networks, before, after, mask * 0, "red")),
            refused(lambda: Score.execute(networks, before, after, mask, "")),
        ],
    }
print(json.dumps(seen))
"""


@pytest.fixture(scope="module", params=["run_in_comfy", "run_in_old_comfy"])
def seen(request, tmp_path_factory):
    run = request.getfixturevalue(request.param)
    return run(SCRIPT, args=("--base-directory", str(tmp_path_factory.mktemp("base"))))


pytestmark = [pytest.mark.comfy, pytest.mark.slow]


def test_score_gives_means_table_and_every_picture(seen):
    rsm, lpips, mse = seen["numbers"]
    assert rsm == pytest.approx((1 + 0.5) / 2)  # red where red was asked for (1), red where green was (0.5)
    assert mse == pytest.approx((0.25 * 4 / (24 * 32 - 96)) / 2)  # one white pixel in the second picture, in -1..1
    assert lpips == pytest.approx(0, abs=1e-9)  # white and grey point the same way, so these features see no change
    assert seen["table"][0] == 1
    assert seen["table"][3] == 3
    report = seen["report"]
    assert [p["style"] for p in report["pictures"]] == ["red", "green"]
    assert report["pictures"][0]["measurements"]["MSE_bg"]["value"] == 0
    assert report["mean"]["RSM-tiny"] | {"value": 0} == {
        "name": "RSM-tiny", "value": 0, "backbone": "colour-tiny", "pixel_range": "0..1", "count": 2,
    }  # fmt: skip
    assert list(report["by_foreground_ratio"]) == ["5-15 %"]


def test_the_sentence_is_what_rsm_compares_with(seen):
    assert seen["worded"] == pytest.approx(1)  # "red blue" names red; the default sentence does not: 0.5
    assert seen["report"]["settings"] == {
        "margin": 0, "sentence": "a picture in {style} style", "background": "map", "pixel_range": "-1..1",
        "soft": True,
    }  # fmt: skip


def test_compare_gives_a_row_per_picture(seen):
    assert seen["grid"][0] == 1
    assert seen["grid"][2] > 2 * 64
    assert seen["grid"][1] > 2 * 48


def test_iou_is_the_overlap(seen):
    assert seen["iou"] == pytest.approx(6 / 18)
    assert seen["lines"].startswith("mask 1: 0.3333")


def test_reports_are_numbered_and_hold_their_pictures(seen):
    first, second = seen["paths"]
    assert first.endswith("report_00001.html")
    assert second.endswith("report_00002.html")
    assert "data:image/png;base64," in seen["page"]
    assert "RSM-tiny" in seen["page"]
    assert "http" not in seen["page"]


def test_inputs_stay_as_they_are(seen):
    assert seen["untouched"]


def test_choices_are_never_empty(seen):
    assert seen["choices"][0][0] == "tiny world"
    assert "LPIPS alex" in seen["choices"][1]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (0, "the same size"),
        (1, "no background"),
        (2, "3 lines"),
        (3, "background"),
        (4, "JSON"),
        (5, "labels"),
        (6, "lpips|alexnet"),
        (7, "text_image"),
        (8, "sentence: got 'no place for it'"),
        (9, "threshold"),
        (10, "NaN"),
        (11, "one mask or one per image"),
        (12, "no region"),
        (13, "style"),
    ],
)
def test_wrong_input_is_one_clear_error(seen, number, says):
    import re

    kind, message = seen["refused"][number]
    assert kind == "RegionStyleError", message
    assert re.search(says, message), message
