"""Grids and tables as pictures, also with texts of any length."""

import time

import numpy as np
import pytest
import torch

from regionstyle.nodes.engine.errors import Cancelled
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.metrics.page.drawing import WIDEST_LINE, _font, _shortened, _width, draw_grid, draw_table

PANEL = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
LONG = ["word " * 400_000, "l" * 2_000_000, "\u0301" * 100_000 + "end", "a\nb\tc" * 100_000]


@pytest.mark.parametrize("text", LONG, ids=["words", "letters", "marks", "lines"])
def test_long_labels_titles_and_cells_are_cut_at_once(text):
    start = time.process_time()
    grid = draw_grid([(text, PANEL), (text, PANEL)], 2, side=64, title=text)
    table = draw_table(text, ["metric", text], [["a", "1"], [text, text]], [text])
    assert time.process_time() - start < 5
    assert grid.shape[1] <= WIDEST_LINE
    assert table.shape[1] <= 2 * WIDEST_LINE + 200
    assert grid.std() > 5


def test_a_text_is_cut_where_it_stops_fitting():
    font, text = _font(16), "the quick brown fox jumps over the lazy dog"
    assert _shortened(text, font, 2000) == text
    cut = _shortened(text, font, 100)
    assert cut.endswith("…")
    assert _width(cut, font) <= 100 < _width(text[: len(cut)] + "…", font)
    assert _shortened(text, font, 2) == ""


def test_a_title_wider_than_the_pictures_is_shown_whole():
    title = "two styles on two things, found by their words"
    narrow, wide = (draw_grid([("a", PANEL)], 1, side=side, title=title) for side in (32, 900))
    assert narrow.shape[1] >= _width(title, _font(21))
    assert (narrow[:40, 14:400] == wide[:40, 14:400]).all()


def test_many_pictures_are_counted_and_can_be_cancelled():
    seen = []
    host = LocalHost("cpu", on_progress=lambda *report: seen.append(report[1:3]), cancelled=lambda: len(seen) == 2)
    panels = [("a", PANEL)] * 50
    with pytest.raises(Cancelled):
        draw_grid(panels, 10, side=16, host=host)
    assert seen == [(1, 50), (2, 50)]
    assert isinstance(draw_grid(panels, 10, side=16), np.ndarray)
