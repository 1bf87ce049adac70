"""The row of LEAST: its numbers know truth from source, and one short run."""

from dataclasses import replace

import pytest
import torch

from regionstyle.nodes.app.metric_networks import tiny_distance, tiny_text_image
from regionstyle.nodes.app.report import rows_least as rows
from regionstyle.nodes.app.report.rows import RowContext, all_rows
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.metrics.networks.networks import MetricNetworks
from regionstyle.nodes.tinyworld.classifier import load_classifier

SCORE = "masked-crop CLIP score-tiny"


@pytest.fixture(scope="module")
def context():
    networks = MetricNetworks(tiny_text_image(), tiny_distance(load_classifier()))
    return RowContext(LocalHost("cpu"), True, (0, 1, 2), networks, load_classifier(), comfy=False)


def test_the_numbers_know_the_truth_from_the_source(context):
    tasks = rows.tasks_of(0, 0, (2, 3))
    assert [len(task.regions) for task in tasks] == [2, 3]
    right, wrong = (
        rows.measure(context, tasks, [getattr(task, which) for task in tasks]) for which in ("truth", "image")
    )
    assert right[SCORE].value > wrong[SCORE].value + 10
    assert right["PSNR to the exact filter"].value > 40 > wrong["PSNR to the exact filter"].value
    assert wrong["content distance-tiny"].value == pytest.approx(0, abs=1e-6)
    assert right["content distance-tiny"].value > 0.01
    assert right["background MSE"].value == wrong["background MSE"].value == 0  # what changes lies in the regions
    assert wrong["background equal"].value == 1
    everywhere = rows.measure(context, tasks, [torch.rand_like(task.image) for task in tasks])
    assert everywhere["background MSE"].value > 0.01
    assert everywhere["background equal"].value < 0.01


@pytest.mark.slow
def test_a_short_run(context, monkeypatch):
    monkeypatch.setattr(rows, "QUICK_ITERATIONS", 1)
    assert "least" in all_rows()
    result = rows.least(replace(context, seeds=(0,)))
    optimised = (rows.IN_TURN, rows.TOGETHER, rows.NOISE, rows.FROM_EXPERT)
    methods = (rows.SOURCE, rows.WHOLE, *optimised, rows.EXPERT)
    assert list(result.values) == [f"{name}, {count} things" for count in (2, 3) for name in methods]
    equal = {name: [m.value for m in values["background equal"]] for name, values in result.values.items()}
    for count in (2, 3):
        assert all(equal[f"{name}, {count} things"] == [1.0] for name in optimised)
        assert max(equal[f"{rows.WHOLE}, {count} things"]) < 0.5
        assert result.remarks[count - 1].startswith(f"{count} things: the paper's order")
    scored = result.values[f"{rows.IN_TURN}, 3 things"][SCORE][0]
    assert scored.count == 3
