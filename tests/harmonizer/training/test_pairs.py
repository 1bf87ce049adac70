"""Data sets in the published layouts, and crops of them."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from r2r_networks import save_harmony_data

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.harmonizer.r2r.hint import edge_map
from regionstyle.nodes.harmonizer.training.examples import draw_example, draw_window, joined, whole_example
from regionstyle.nodes.harmonizer.training.pairs import Pairs, has_split, partners, shuffled


@pytest.fixture
def root(tmp_path):
    return save_harmony_data(tmp_path, count=3)


def test_every_kind_of_list_names_the_same_pairs(root):
    of_json = Pairs.of(root)
    assert [pair.real.name for pair in of_json.all] == ["rdtrain0.jpg", "rdtrain1.jpg", "rdtrain2.jpg"]
    assert of_json.all[0].mask.name == "rdtrain0_1.png"
    lines = [str(pair.composite.relative_to(root)) for pair in of_json.all]
    (root / "train.jsonl").unlink()
    for name, text in {
        "IHD_train.txt": lines, "train.txt": lines, "R-DUTS/R-DUTS_train.txt": [line.split("/")[-1] for line in lines],
    }.items():  # fmt: skip
        (root / name).write_text("\n".join(text) + "\n")
        assert Pairs.of(root).all == of_json.all
        (root / name).unlink()
    assert has_split(root, "train") is False


def test_an_image_name_may_hold_an_underscore(root):
    base = root / "R-DUTS"
    for folder, old, new in (("composite_images", "rdtrain0_1_1.jpg", "d90000001_20_1_3.jpg"),
                             ("masks", "rdtrain0_1.png", "d90000001_20_1.png"),
                             ("real_images", "rdtrain0.jpg", "d90000001_20.jpg")):  # fmt: skip
        (base / folder / old).rename(base / folder / new)
    pair = partners(base / "composite_images" / "d90000001_20_1_3.jpg")
    assert (pair.mask.name, pair.real.name) == ("d90000001_20_1.png", "d90000001_20.jpg")


def test_pictures_may_be_png(root):
    for folder in ("composite_images", "real_images"):
        file = root / "R-DUTS" / folder / ("rdtrain1_1_1.jpg" if folder[0] == "c" else "rdtrain1.jpg")
        Image.open(file).save(file.with_suffix(".png"))
        file.unlink()
    composite, mask, real = Pairs.of(root).all[1].read()
    assert composite.shape == real.shape == (1, 3, 96, 96)
    assert set(mask.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda root: shutil.rmtree(root / "R-DUTS" / "masks"), "no rdtrain0_1.png"),
        (lambda root: (root / "train.jsonl").write_text("{}\n"), "train.jsonl"),
        (lambda root: (root / "train.jsonl").write_text('{"file_name": "a/b.jpg"}\n'), "IMAGE_MASK_NUMBER"),
        (lambda root: (root / "train.jsonl").write_text("\n"), "without a list"),
        (lambda root: shutil.rmtree(root), "no such folder"),
    ],
)
def test_what_is_missing_is_named(root, damage, part):
    damage(root)
    with pytest.raises(RegionStyleError, match=part):
        Pairs.of(root)


def test_crops_fit_together_and_follow_the_seed(root):
    pair = Pairs.of(root).all[0]
    one, again, other = (draw_example(pair, 64, torch.Generator().manual_seed(s), hint=True) for s in (1, 1, 2))
    assert torch.equal(one.composite, again.composite)
    assert not torch.equal(one.composite, other.composite)
    assert one.hint.shape == (1, 7, 64, 64)
    assert torch.equal(one.hint[:, 3:6], one.composite)
    outside = (one.mask == 0).expand_as(one.real)
    assert (one.real - one.composite)[outside].abs().mean() < 0.05, "composite and real are the same crop"
    batch = joined([one, other])
    assert batch.hint.shape == (2, 7, 64, 64)


def test_edges_are_drawn_before_the_crop(root):
    """The map is cut and resized, so that its lines are as thick as those of the whole picture."""
    pair = Pairs.of(root).all[0]
    composite, mask, _ = pair.read()
    whole = whole_example(pair, 96, hint=True)
    assert torch.allclose(whole.hint[:, :3], edge_map(composite, mask) * 2 - 1)


def test_windows_hold_foreground_where_they_can():
    random = torch.Generator().manual_seed(0)
    mask = torch.zeros(1, 1, 100, 100)
    mask[..., :20, :20] = 1
    windows = [draw_window(mask, random) for _ in range(200)]
    shares = [float(mask[..., t : t + h, x : x + w].mean()) for t, x, h, w in windows]
    assert np.mean([share >= 0.01 for share in shares]) > 0.95
    areas = [h * w / 10000 for _, _, h, w in windows]
    assert 0.48 <= min(areas) <= max(areas) <= 1
    assert all(0.7 <= w / h <= 1.4 for _, _, h, w in windows)
    assert all(t + h <= 100 and x + w <= 100 for t, x, h, w in windows)
    empty = torch.zeros(1, 1, 10, 300)
    assert len(draw_window(empty, random)) == 4


def test_epochs_have_orders_of_their_own():
    assert sorted(shuffled(20, 0, 0)) == list(range(20))
    assert shuffled(20, 0, 0) == shuffled(20, 0, 0)
    assert len({tuple(shuffled(20, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
