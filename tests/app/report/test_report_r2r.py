"""The row of R2R: its numbers know truth from composite, what it says of the order, and one short run."""

import math

import pytest

pytest.importorskip("skimage")
pytest.importorskip("sklearn")
pytest.importorskip("diffusers")

from regionstyle.nodes.app.report import rows_r2r as rows
from regionstyle.nodes.app.report.rows import RowContext, all_rows, spreads
from regionstyle.nodes.engine.host.base import Cancelled, LocalHost
from regionstyle.nodes.harmonizer.data.composites import held_out_composites
from regionstyle.nodes.harmonizer.data.photographs import HELD_OUT
from regionstyle.nodes.harmonizer.training.small import VARIANTS, SmallSettings
from regionstyle.nodes.metrics.measurement import BYTES, Measurement


def test_the_numbers_know_the_truth_from_the_composite():
    composites = held_out_composites(HELD_OUT, 3, 64)
    right, wrong = (
        {m.name: m.value for m in rows.measure([getattr(one, which)[None] for one in composites], composites)}
        for which in ("truth", "composite")
    )
    assert right["fMSE, all"] == 0 < 50 < wrong["fMSE, all"]
    assert math.isinf(right["PSNR, all"])
    assert math.isinf(right[rows.DETAIL])
    assert 10 < wrong[rows.DETAIL] < 60


def numbers(*errors, detail=(20, 30)):
    """fMSE of the four variants in one repetition each, and the detail of the plain and the full one."""
    values = {
        name: {rows.ERROR: [Measurement(rows.ERROR, error, "", BYTES, 1)]}
        for name, error in zip(VARIANTS, errors, strict=True)
    }
    for name, value in zip((rows.PLAIN, rows.FULL), detail, strict=True):
        values[name][rows.DETAIL] = [Measurement(rows.DETAIL, value, "", BYTES, 1)]
    return values


def test_what_is_said_of_the_order():
    paper = rows.orders(numbers(400, 300, 350, 200))
    assert len(paper) == 4
    assert all("appears: " in line and "1 of 1" in line for line in paper)
    other = rows.orders(numbers(200, 300, 350, 400, detail=(30, 20)))
    assert all("does not appear" in line and "0 of 1" in line for line in other)


def tiny_scale():
    return rows.Scale(SmallSettings(autoencoder=1, vae=1, unet=1, controller=1, batch=1), 4, 3, 64)


@pytest.mark.slow
def test_one_short_run(monkeypatch):
    monkeypatch.setattr(rows, "QUICK", tiny_scale())
    result = all_rows()["r2r"].run(RowContext(LocalHost("cpu"), True, (0, 1, 2), None, None, comfy=False))
    table = spreads(result)
    assert list(table) == [rows.UNCHANGED, rows.BUNDLED, *VARIANTS]
    assert table["bundled"]["fMSE, all"].mean < table["unchanged"]["fMSE, all"].mean < table["R2R"]["fMSE, all"].mean
    assert len(result.panels) == 3 * (len(table) + 1)
    assert set(result.better) == set(table["R2R"])
    assert sum("paper's order" in remark for remark in result.remarks) == 4


@pytest.mark.slow
def test_it_can_be_cancelled(monkeypatch):
    monkeypatch.setattr(rows, "QUICK", tiny_scale())
    with pytest.raises(Cancelled):
        all_rows()["r2r"].run(RowContext(LocalHost("cpu", cancelled=lambda: True), True, (0,), None, None, comfy=False))
