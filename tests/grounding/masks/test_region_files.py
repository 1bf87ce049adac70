"""Regions on disk: what was written is read back, and nothing else is."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.region.regions import Regions, missing_region, region_of
from regionstyle.nodes.grounding.masks.region_files import load_regions, save_regions


def some_regions() -> Regions:
    mask = torch.rand(7, 9, generator=torch.Generator().manual_seed(0))
    mask[:, :2] = 0
    mask[:, 8] = 1
    items = (
        region_of("rote Tür «1»", mask, style="neon", score=0.75),
        missing_region("dog", (7, 9), style="mosaic", image=1),
    )
    return Regions(items, 7, 9, 2)


def test_words_scores_and_masks_come_back(tmp_path):
    regions = some_regions()
    path = tmp_path / "scene_00001_.json"
    files = save_regions(regions, path)
    assert [file.name for file in files] == [path.name, "scene_00001_mask000.png", "scene_00001_mask001.png"]
    back = load_regions(path)
    assert (back.batch, back.height, back.width) == (2, 7, 9)
    for before, after in zip(regions, back, strict=True):
        assert (before.phrase, before.style, before.score, before.image, before.box) == (
            after.phrase, after.style, after.score, after.image, after.box)  # fmt: skip
        assert float((before.mask - after.mask).abs().max()) <= 0.5 / 65535 + 1e-7
    assert torch.equal(back.items[0].mask == 0, regions.items[0].mask == 0)
    save_regions(back, tmp_path / "again.json")
    assert torch.equal(load_regions(tmp_path / "again.json").items[0].mask, back.items[0].mask)


def test_a_mask_from_a_paint_program_is_read(tmp_path):
    path = tmp_path / "a.json"
    save_regions(some_regions(), path)
    painted = np.zeros((7, 9, 3), np.uint8)
    painted[2:4, 3:5] = 255
    Image.fromarray(painted).save(tmp_path / "amask000.png")
    assert load_regions(path).items[0].box == (3, 2, 5, 4)


def test_what_is_transparent_is_no_part_of_a_mask(tmp_path):
    path = tmp_path / "a.json"
    save_regions(some_regions(), path)
    painted = np.full((7, 9, 4), 255, np.uint8)
    painted[..., 3] = 0
    painted[2:4, 3:5, 3] = 255
    Image.fromarray(painted).save(tmp_path / "amask000.png")
    assert load_regions(path).items[0].box == (3, 2, 5, 4)


def test_a_file_that_an_editor_wrote_is_read(tmp_path):
    path = tmp_path / "a.json"
    save_regions(some_regions(), path)
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert len(load_regions(path)) == 2


def changed(path, **values):
    data = json.loads(path.read_text(encoding="utf-8"))
    region = {key: values.pop(key) for key in list(values) if key in data["regions"][0]}
    data["regions"][0] |= region
    path.write_text(json.dumps(data | values), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mask": "../secret.png"}, "same folder"),
        ({"mask": "/etc/secret.png"}, "same folder"),
        ({"mask": ""}, "same folder"),
        ({"mask": "a\0.png"}, "same folder"),
        ({"mask": "gone.png"}, "cannot be read"),
        ({"mask": "a.json"}, "cannot be read"),
        ({"width": 10}, "9 x 7 pixels, expected the picture's 10 x 7"),
        ({"width": "9"}, "whole number"),
        ({"width": 10**6, "height": 10**6, "regions": []}, "at most .* million pixels"),
        ({"batch": 10**12, "regions": []}, "at most .* million pixels"),
        ({"width": 12000, "height": 11000, "regions": [{}] * 100}, "100 masks of 2 pictures of 12000 x 11000"),
        ({"format": "other"}, "another kind"),
        ({"version": 2}, "version 2"),
        ({"version": True}, "version True"),
        ({"image": 5}, "image 5"),
        ({"image": True}, "a region"),
        ({"score": True}, "a region"),
        ({"score": "high"}, "a region"),
        ({"regions": {}}, "a list"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_damaged_files_are_refused(tmp_path, change, match):
    path = tmp_path / "a.json"
    save_regions(some_regions(), path)
    changed(path, **change)
    with pytest.raises(RegionStyleError, match=match):
        load_regions(path)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    outside.mkdir()
    save_regions(some_regions(), inside / "a.json")
    (inside / "amask000.png").rename(outside / "m.png")
    (inside / "amask000.png").symlink_to(outside / "m.png")
    with pytest.raises(RegionStyleError, match="same folder"):
        load_regions(inside / "a.json")


@pytest.mark.parametrize(
    "text", ["", "no json", "[1]", "\udcff", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"], ids=range(6)
)
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RegionStyleError, match=r"a\.json"):
        load_regions(path)
    with pytest.raises(RegionStyleError, match="exists"):
        load_regions(tmp_path / "b.json")


@pytest.mark.parametrize("call", [save_regions, lambda regions, path, host: load_regions(path, host)])
def test_masks_are_counted_and_can_be_cancelled(tmp_path, call):
    seen = []
    host = LocalHost("cpu", on_progress=lambda *report: seen.append(report[1:3]), cancelled=lambda: len(seen) == 2)
    many = some_regions().with_items([*some_regions()] * 4)
    save_regions(many, tmp_path / "a.json")
    with pytest.raises(Cancelled):
        call(many, tmp_path / "a.json", host)
    assert seen == [(1, 8), (2, 8)]
