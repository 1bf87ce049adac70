"""The row of guidance: its tasks, its numbers, and one short run."""

import math

import pytest
import torch

from regionstyle.nodes.app.metric_networks import tiny_distance, tiny_text_image
from regionstyle.nodes.app.report import rows_guidance as rows
from regionstyle.nodes.app.report.rows import RowContext, all_rows
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.metrics.networks.networks import MetricNetworks
from regionstyle.nodes.tinyworld.classifier import load_classifier


@pytest.fixture(scope="module")
def context():
    classifier = load_classifier()
    networks = MetricNetworks(tiny_text_image(), tiny_distance(classifier))
    return RowContext(LocalHost("cpu"), True, (0, 1, 2), networks, classifier, comfy=False)


def test_the_tasks_show_a_style():
    tasks = rows._tasks(0, 5, 2)
    assert len(tasks) == 2
    assert all(float(task.mask.sum()) >= rows.SMALLEST for task in tasks)
    assert rows._tasks(1, 5, 2)[0].phrase != tasks[0].phrase or not torch.equal(
        rows._tasks(1, 5, 2)[0].image, tasks[0].image
    )


def test_the_numbers_know_the_truth_from_the_source(context):
    tasks = rows._tasks(0, 0, 2)
    truths, sources = [task.truth for task in tasks], [task.image for task in tasks]
    right = rows.measure(context, tasks, truths, sources, [0.0, 0.0])
    wrong = rows.measure(context, tasks, sources, [1 - image for image in sources], [1.0, 1.0])
    assert math.isinf(right[rows.IN].value)
    assert wrong[rows.IN].value < 30
    styled, placed = (f"{name}-tiny" for name in (rows.STYLED, rows.PLACED))
    assert right[styled].value > wrong[styled].value
    assert right[placed].value > wrong[placed].value
    assert right[f"{rows.LEAKED}-tiny"].value == 0


@pytest.mark.slow
def test_the_row_compares_all_forms(context, monkeypatch):
    monkeypatch.setattr(rows, "QUICK_SCENES", 1)
    monkeypatch.setattr(rows, "STEPS", 2)
    assert "guidance" in all_rows()
    found = rows.guidance(context)
    assert tuple(found.values) == (rows.NONE, "bias", "gradient", "composition")
    losses = {
        form: sum(number.value for number in numbers["attention loss at the last step"])
        for form, numbers in found.values.items()
    }
    assert losses["gradient"] < losses[rows.NONE]
    assert all(len(parts) == 3 for numbers in found.values.values() for parts in numbers.values())
    assert len(found.panels) == 4
