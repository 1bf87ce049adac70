"""The row of SMS: its numbers know truth from source, its variants differ as they say, and one short run."""

from dataclasses import replace

import pytest
import torch

from regionstyle.nodes.app.metric_networks import tiny_distance, tiny_embed, tiny_text_image
from regionstyle.nodes.app.report import rows_sms as rows
from regionstyle.nodes.app.report.rows import RowContext, all_rows, spreads
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.metrics.distributions import gather_features
from regionstyle.nodes.metrics.networks.networks import MetricNetworks
from regionstyle.nodes.tinyworld.classifier import load_classifier


@pytest.fixture(scope="module")
def context():
    classifier = load_classifier()
    networks = MetricNetworks(tiny_text_image(), tiny_distance(classifier))
    return RowContext(LocalHost("cpu"), True, (0, 1, 2), networks, classifier, comfy=False)


def test_patches_cover_the_picture():
    image = torch.arange(128.0 * 128).reshape(1, 1, 128, 128).repeat(2, 3, 1, 1)
    made = rows.patches(image)
    assert made.shape == (18, 3, 64, 64)
    assert torch.equal(made[0], image[0, :, :64, :64])
    assert torch.equal(made[8], image[0, :, 64:, 64:])


def test_the_numbers_know_the_truth_from_the_source(context):
    pictures = rows.pictures_of(0, 3, 0)
    other = rows.pictures_of(100, 6, 0)
    true = gather_features(tiny_embed(context.classifier), [rows.patches(other.truth)])
    right, wrong = (rows.measure(context, pictures, images, true) for images in (pictures.truth, pictures.source))
    assert wrong["LPIPS-tiny"].value == pytest.approx(0, abs=1e-6)
    assert right["LPIPS-tiny"].value > 0.01
    assert right["style recognised-tiny"].value > wrong["style recognised-tiny"].value + 0.5
    assert right["FID-tiny"].value < wrong["FID-tiny"].value
    lpips, fid = right["LPIPS-tiny"].value, right["FID-tiny"].value
    assert right["ArtFID-tiny"].value == pytest.approx((1 + lpips) * (1 + fid))
    assert right["PSNR to the exact filter"].value == float("inf")


def test_every_variant_changes_one_thing():
    full = rows.VARIANTS[rows.FULL]
    differing = {
        name: {key for key in vars(full) if getattr(settings, key) != getattr(full, key)}
        for name, settings in rows.VARIANTS.items()
    }
    assert differing.pop(rows.FULL) == set()
    assert differing.pop(rows.NEITHER) == {"balance", "relevance"}
    assert all(len(keys) == 1 for keys in differing.values())
    assert set(rows.BY_CONTENT) == set(rows.BY_ARTFID) <= set(rows.VARIANTS)


@pytest.mark.slow
def test_a_short_run(context, monkeypatch):
    chosen = {name: rows.VARIANTS[name] for name in rows.BY_CONTENT}
    monkeypatch.setattr(rows, "VARIANTS", {n: replace(s, seed=0) for n, s in chosen.items()})
    monkeypatch.setattr(rows, "QUICK_SCENES", 1)
    monkeypatch.setattr(rows, "QUICK_ITERATIONS", 2)
    monkeypatch.setattr(rows, "TRUE_SCENES", 2)
    result = all_rows()["sms"].run(context)
    found = spreads(result)
    assert {rows.SOURCE, rows.LIMIT, rows.FORWARD, *rows.BY_CONTENT} <= set(found)
    assert any(name.startswith(rows.LORA) for name in found)
    assert len(result.panels) == len(found) + 1
    assert any("Order by ArtFID" in remark for remark in result.remarks)
