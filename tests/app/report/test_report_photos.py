"""The row of photographs: it is found, its numbers know truth from source, and one short run."""

import pytest
import torch

from regionstyle.nodes.app.evaluation.photos import held_out_photo
from regionstyle.nodes.app.metric_networks import tiny_distance, tiny_text_image
from regionstyle.nodes.app.report import rows_photos as rows
from regionstyle.nodes.app.report.rows import RowContext, all_rows
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.metrics.networks.networks import MetricNetworks
from regionstyle.nodes.tinyworld.classifier import load_classifier, load_photo_classifier


@pytest.fixture(scope="module")
def context():
    classifier = load_classifier()
    networks = MetricNetworks(tiny_text_image(), tiny_distance(classifier))
    return RowContext(LocalHost("cpu"), True, (0, 1, 2), networks, classifier, comfy=False)


def test_the_row_is_found():
    assert "photographs" in all_rows()


def test_the_numbers_know_the_truth_from_the_source(context):
    photo = held_out_photo("coffee", 256)
    truth = rows.truth_of(photo, "watercolor")
    key = ("coffee", "watercolor")
    right, wrong = (rows._measured(load_photo_classifier(), {"coffee": photo}, {key: one}) for one in (truth, photo))
    assert right["PSNR to the exact filter"].value > 50 > 20 > wrong["PSNR to the exact filter"].value
    assert wrong["edge correlation"].value == pytest.approx(1)
    assert right["edge correlation"].value < 0.95
    assert torch.equal(held_out_photo("coffee", 256), photo)


@pytest.mark.slow
def test_a_quick_run(context):
    made = rows.photographs(context)
    near = {name: metrics["PSNR to the exact filter"] for name, metrics in made.values.items()}
    assert [len(parts) for parts in near.values()] == [3] * 5
    mean = {name: sum(part.value for part in parts) / 3 for name, parts in near.items()}
    assert mean[rows.FULL] > mean[rows.PHOTO]
    assert mean[rows.EXACT] == max(mean.values())
