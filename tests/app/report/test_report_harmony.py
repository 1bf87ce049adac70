"""The row of harmonisation: its numbers' names, and one short run."""

import pytest

pytest.importorskip("skimage")
pytest.importorskip("sklearn")

from regionstyle.nodes.app.evaluation.harmony import METHODS
from regionstyle.nodes.app.report import rows_harmony
from regionstyle.nodes.app.report.rows import RowContext, all_rows, spreads
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import Cancelled, LocalHost


def context(**host):
    return RowContext(LocalHost("cpu", **host), True, (0, 1, 2), None, None, comfy=False)


@pytest.mark.slow
def test_one_short_run(monkeypatch):
    def refused(context):
        raise RegionStyleError("no weights")

    monkeypatch.setitem(rows_harmony.EXTRA, "R2R", refused)
    result = all_rows()["harmonisation"].run(context())
    table = spreads(result)
    assert list(table) == list(METHODS)
    assert result.absent == {"R2R": "no weights"}
    assert table["bundled"]["fMSE, all"].mean < 0.5 * table["unchanged"]["fMSE, all"].mean
    assert table["bundled"]["PSNR of what fits already"].mean > 39
    assert len(result.panels) == 3 * (len(METHODS) + 1)


@pytest.mark.slow
def test_it_can_be_cancelled(monkeypatch):
    monkeypatch.setattr(rows_harmony, "known_methods", lambda: {"unchanged": None})
    with pytest.raises(Cancelled):
        all_rows()["harmonisation"].run(context(cancelled=lambda: True))
