"""The rows of editing by words: scenes of their kind, numbers that know truth from source, short runs."""

import numpy as np
import pytest
import torch

from regionstyle.nodes.app.metric_networks import tiny_distance, tiny_text_image
from regionstyle.nodes.app.report import editing_scenes as scenes
from regionstyle.nodes.app.report import rows_editing, rows_layers
from regionstyle.nodes.app.report.rows import RowContext, all_rows
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.metrics.networks.networks import MetricNetworks
from regionstyle.nodes.tinyworld.classifier import load_classifier
from regionstyle.nodes.tinyworld.training import stages
from regionstyle.nodes.tinyworld.world import Scene, SceneObject

STYLED, LEAKED = (f"{name}-tiny" for name in (rows_editing.STYLED, rows_editing.LEAKED))


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    classifier = load_classifier()
    networks = MetricNetworks(tiny_text_image(), tiny_distance(classifier))
    folder = tmp_path_factory.mktemp("report")
    return RowContext(LocalHost("cpu"), True, (0, 1, 2), networks, classifier, comfy=False, folder=folder)


def made(*things):
    """A scene of squares: (left, right, shape, hidden), 48 pixels high."""
    objects = []
    for left, right, shape, hidden in things:
        mask = np.zeros((128, 128), np.float32)
        mask[40:88, left:right] = 1
        objects.append(SceneObject(shape, "red", mask, (left, 40, right, 88), hidden=hidden))
    return Scene(np.zeros((128, 128, 3), np.float32), tuple(objects), "plain")


@pytest.mark.parametrize(
    ("scene", "kinds"),
    [
        (made((5, 45, "star", 0), (80, 120, "moon", 0)), {"easy": 0}),
        (made((5, 15, "star", 0), (60, 110, "moon", 0)), {"easy": 1, "small": 0}),
        (made((5, 45, "star", 0.3), (47, 90, "moon", 0)), {"occluded": 0}),
        (made((5, 45, "star", 0), (47, 90, "moon", 0)), {"adjacent": 0}),
        (made((5, 45, "star", 0), (80, 120, "star", 0)), {"repeated": 0}),
        (made((5, 7, "star", 0)), {}),
    ],
)
def test_what_makes_a_scene_hard(scene, kinds):
    assert {name: kind(scene) for name, kind in scenes.KINDS.items() if kind(scene) is not None} == kinds


def test_tasks_are_of_their_kind_and_differ_between_repetitions():
    first, second = (scenes.tasks_of("easy", repetition, 3, 2) for repetition in (0, 1))
    assert [task.asked[0][1] for task in first] == ["pixel art", "pencil sketch"]
    assert not torch.equal(first[0].image, second[0].image)
    both = scenes.tasks_with(2, 0, 3, 1)[0]
    assert len(both.words) == len(both.masks) == 2
    assert len({style for _, style in both.words}) == 2
    changed = (both.truth != both.image).any(1)[0]
    assert not changed[(both.masks == 0).all(0)].any()
    assert all(changed[mask > 0.9].float().mean() > 0.3 for mask in both.masks)


def test_the_numbers_know_the_truth_from_the_source(context):
    tasks = [*scenes.tasks_of("easy", 0, 0, 2), *scenes.tasks_with(2, 0, 0, 1)]
    sources, truths = (torch.cat([getattr(task, name) for task in tasks]) for name in ("image", "truth"))
    right, wrong = (rows_editing.measure(context, tasks, pictures) for pictures in (truths, sources))
    assert right["RSM-tiny"].value > wrong["RSM-tiny"].value
    assert right[rows_editing.IN].value > 60 > wrong[rows_editing.IN].value
    assert right[STYLED].value > wrong[STYLED].value
    assert right["MSE_bg"].value < 2e-3, "soft edges only"
    everywhere = torch.cat([torch.rand_like(task.image) for task in tasks])
    noisy = rows_editing.measure(context, tasks, everywhere)
    assert noisy[rows_editing.OUT].value < 15
    assert noisy["LPIPS_bg-tiny"].value > right["LPIPS_bg-tiny"].value
    assert right[rows_editing.IN].count == 4, "two things count twice"


def test_layers_are_ranked():
    inside = torch.zeros(1, 4, 4, dtype=torch.bool)
    inside[0, :2] = True
    right = inside.float() * 4 - 2
    assert float(rows_layers.ranking(right, inside)) == 1
    assert float(rows_layers.ranking(-right, inside)) == 0
    assert float(rows_layers.ranking(torch.zeros(1, 4, 4), inside)) == 0.5
    assert float(rows_layers.overlap(right, inside)) == 1
    assert float(rows_layers.overlap(right.abs(), inside)) == 0.5


@pytest.mark.slow
def test_a_short_run_with_trained_variants(context, monkeypatch):
    monkeypatch.setattr(stages, "POOL_SIZE", 8)
    monkeypatch.setattr(stages, "EDITING_PAIRS", 8)
    monkeypatch.setattr(rows_editing, "QUICK_SCENES", 1)
    monkeypatch.setattr(rows_editing, "STEPS", 2)
    assert {"editing", "layers"} <= set(all_rows())
    untrained = rows_editing.editing(context)
    assert set(rows_editing.VARIANTS) <= set(untrained.absent)
    from dataclasses import replace

    found = rows_editing.editing(replace(context, train_minutes=0.02))
    assert set(rows_editing.VARIANTS) <= set(found.values)
    assert all(len(parts) == 3 for numbers in found.values.values() for parts in numbers.values())
    assert found.values[rows_editing.SOURCE]["MSE_bg"][0].value == 0
    assert f"{rows_editing.SHIPPED}, 3 styles at once" in found.values


@pytest.mark.slow
def test_every_layer_is_measured(context, monkeypatch):
    monkeypatch.setattr(rows_layers, "QUICK_SCENES", 3)
    found = rows_layers.layers(context)
    paths = [name for name in found.values if name.startswith("base, thing")]
    assert len(paths) == 8 or "base, thing: mean of all" in paths
    best = max(found.values[name][rows_layers.RANKED][0].value for name in paths)
    assert best > 0.8, "the base was taught where its words belong"
