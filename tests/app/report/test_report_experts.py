"""The rows of several styles on several things: the tasks, the measurements, and one short run."""

import pytest
import torch

from regionstyle.nodes.app.metric_networks import tiny_distance, tiny_text_image
from regionstyle.nodes.app.report import rows_experts as rows
from regionstyle.nodes.app.report.comfy_hook_loras import hook_loras_workflow
from regionstyle.nodes.app.report.rows import RowContext, all_rows
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.metrics.networks.networks import MetricNetworks
from regionstyle.nodes.tinyworld.classifier import load_classifier
from regionstyle.nodes.tinyworld.world import apply_style


@pytest.fixture(scope="module")
def context():
    classifier = load_classifier()
    networks = MetricNetworks(tiny_text_image(), tiny_distance(classifier))
    return RowContext(LocalHost("cpu"), True, (0, 1, 2), networks, classifier, comfy=False)


def test_every_thing_gets_another_style_and_repetitions_have_other_scenes():
    found = [rows.scenery_of(at, 0, 3, 2, ["a", "b", "c", "d"]) for at in (0, 1)]
    assert [task.styles for task in found[0]] == [("a", "b", "c"), ("d", "a", "b")]
    assert all(len(task.scene.objects) == 3 for tasks in found for task in tasks)
    assert not torch.equal(found[0][0].image, found[1][0].image)
    assert [item.style for item in found[0][0].regions] == ["a", "b", "c"]
    assert found[0][0].sentence.count(" style") == 3


def test_the_numbers_know_the_truth_from_its_opposite(context):
    """Each thing in its own style; then the styles exchanged."""
    tasks = rows.scenery_of(0, 0, 2, 3, ["mosaic", "neon"])

    def restyled(styles):
        pictures = []
        for task in tasks:
            image = task.scene.image
            for thing, style in zip(task.scene.objects, styles, strict=True):
                mask = thing.mask[..., None]
                image = image * (1 - mask) + apply_style(task.scene.image, style) * mask
            pictures.append(torch.from_numpy(image).permute(2, 0, 1)[None].float())
        return rows.measure(context, tasks, pictures)

    right, wrong = restyled(("mosaic", "neon")), restyled(("neon", "mosaic"))
    assert right["style recognised-tiny"].value > wrong["style recognised-tiny"].value + 0.5
    assert wrong["leak of the other style-tiny"].value > right["leak of the other style-tiny"].value + 0.5
    assert right["RSM-tiny"].value > wrong["RSM-tiny"].value
    assert right["MSE_bg"].value < 1e-3  # soft rims where things touch


def test_the_hook_workflow_has_a_hook_and_a_mask_for_every_thing():
    (task,) = rows.scenery_of(0, 0, 3, 1, ["mosaic", "neon", "oil paint"])
    made = hook_loras_workflow("a.png", ["0.png", "1.png", "2.png"], task, 4)
    hooks = [node["inputs"]["lora_name"] for node in made.values() if node["class_type"] == "CreateHookLora"]
    assert hooks == ["tinyworld/mosaic.safetensors", "tinyworld/neon.safetensors", "tinyworld/oil-paint.safetensors"]
    links = [value for node in made.values() for value in node["inputs"].values() if isinstance(value, list)]
    assert all(name in made for name, _ in links)


def test_the_rows_are_found():
    assert {"two-styles", "three-styles"} <= set(all_rows())


@pytest.mark.slow
def test_a_quick_run(context, monkeypatch):
    monkeypatch.setattr(rows, "QUICK_SCENES", 1)
    result = rows.two_styles(context)
    assert set(result.values) == {rows.SOFT, rows.HARD, rows.TOGETHER}
    assert set(result.absent) == {rows.HOOKS, rows.WITHOUT_ROWS}
    assert all(len(parts) == 3 for found in result.values.values() for parts in found.values())
    assert not torch.equal(result.panels[0][1], result.panels[1][1])
