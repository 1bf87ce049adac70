"""Random Poisson Blending and the data sets made with it."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.harmonizer.data.jitter import Jitter, coded_from_light, jittered, light_from_coded
from regionstyle.nodes.harmonizer.data.mask_shapes import SHAPES, drawn_mask, segment_mask
from regionstyle.nodes.harmonizer.data.random_poisson import random_poisson_blend
from regionstyle.nodes.harmonizer.data.rpharmony import DataSettings, make_data_set, tasks
from regionstyle.nodes.harmonizer.data.sources import coco_sources, folder_sources


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(h, w, seed):
    small = torch.rand(1, 3, 5, 6, generator=seeded(seed))
    return torch.nn.functional.interpolate(small, (h, w), mode="bilinear", align_corners=True)


def disc(h, w):
    y, x = torch.arange(h)[:, None] - h / 2, torch.arange(w)[None] - w / 2
    return ((y**2 + x**2) < (min(h, w) / 3) ** 2).float()[None, None]


def test_outside_is_bit_equal_and_inside_is_not():
    picture, donor, mask = smooth(40, 50, 1), smooth(60, 70, 2), disc(40, 50)
    made = random_poisson_blend(picture, mask, donor, seeded())
    outside = (mask == 0).expand_as(picture)
    assert torch.equal(made[outside], picture[outside])
    assert (made - picture)[~outside].abs().max() > 0.02
    assert 0 <= made.min() <= made.max() <= 1


def test_a_donor_that_is_brighter_by_a_constant_brightens_by_it():
    picture, mask = 0.2 + 0.5 * smooth(40, 50, 1), disc(40, 50)
    flat = torch.full((1, 3, 40, 50), 0.3)
    made = random_poisson_blend(flat, mask, flat + 0.4, seeded(), strength=0.75)
    torch.testing.assert_close(made, flat + 0.3 * mask, atol=1e-4, rtol=0)
    assert torch.equal(random_poisson_blend(picture, mask, picture + 0.1, seeded(), strength=0), picture)


def test_the_foregrounds_detail_stays():
    """The change is smooth: its Laplacian inside is 0."""
    picture, donor, mask = torch.rand(1, 3, 40, 50, generator=seeded(5)) * 0.3 + 0.35, smooth(40, 50, 2), disc(40, 50)
    change = random_poisson_blend(picture, mask, donor * 0.1 + 0.45, seeded(), strength=1.0) - picture
    around = change.roll(1, -1) + change.roll(-1, -1) + change.roll(1, -2) + change.roll(-1, -2) - 4 * change
    deep = -torch.nn.functional.max_pool2d(-mask, 5, 1, 2) > 0
    assert around[deep.expand_as(around)].abs().max() < 1e-3
    assert change.abs().max() > 0.01


def test_seeds_choose_the_place():
    picture, donor, mask = smooth(40, 50, 1), smooth(90, 90, 2), disc(40, 50)
    first, again, other = (random_poisson_blend(picture, mask, donor, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_small_donors_are_enlarged_and_small_masks_refused():
    picture, mask = smooth(40, 50, 1), disc(40, 50)
    assert random_poisson_blend(picture, mask, smooth(8, 9, 2), seeded()).shape == picture.shape
    tiny = torch.zeros_like(mask)
    tiny[..., 3, 3:9] = 1
    with pytest.raises(RegionStyleError, match="mask: got 6 pixels"):
        random_poisson_blend(picture, tiny, picture, seeded())
    with pytest.raises(RegionStyleError, match="mask"):
        random_poisson_blend(picture, mask[..., 1:], picture, seeded())


def test_srgb_and_jitter():
    values = torch.linspace(0, 1, 50).view(1, 1, 5, 10).expand(1, 3, 5, 10)
    torch.testing.assert_close(coded_from_light(light_from_coded(values)), values, atol=1e-5, rtol=0)
    none = jittered(values, torch.ones(1, 1, 5, 10), seeded(), Jitter(0, 0, 0, 0))
    torch.testing.assert_close(none, values, atol=0.6 / 255, rtol=0)
    made = jittered(values, torch.ones(1, 1, 5, 10), seeded(4))
    assert (made - values).abs().max() > 0.02
    assert torch.equal(made * 255, (made * 255).round())


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "segment"])
def test_drawn_masks_have_many_sizes(shape):
    areas = [float(drawn_mask(shape, 64, seeded(seed)).mean()) for seed in range(40)]
    assert min(areas) < 0.03
    assert max(areas) > 0.15


def test_segments():
    labels = torch.zeros(40, 40, dtype=torch.long)
    labels[:10, :10] = 1
    assert {float(segment_mask(labels, seeded(seed)).mean()) for seed in range(8)} == {100 / 1600}
    assert segment_mask(torch.zeros(9, 9, dtype=torch.long), seeded()).sum() == 0


@pytest.fixture
def corpus(tmp_path):
    """Four pictures, three with good masks, one damaged file, one mask of another size and one that is empty."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir(), masks.mkdir()
    for number in range(4):
        values = (smooth(48, 64, number)[0].permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(values).save(images / f"p{number}.png")
        Image.fromarray((disc(48, 64)[0, 0] * 255).byte().numpy()).save(masks / f"p{number}.png")
    (images / "p3.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(masks / "p0_empty.png")
    Image.fromarray(np.full((10, 10), 255, np.uint8)).save(masks / "p2_other.png")
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(images / "without_mask.png")
    return images, masks


def files(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_the_layout(corpus, tmp_path):
    out = tmp_path / "out"
    manifest = make_data_set(folder_sources(*corpus), out, DataSettings(variants=2, test=0.5, seed=3))
    made = sorted(f.name for f in (out / "R-Own" / "composite_images").iterdir())
    assert made == ["ro000000_1_1.jpg", "ro000000_1_2.jpg", "ro000001_1_1.jpg", "ro000001_1_2.jpg"]
    lines = [json.loads(x) for n in ("train", "test") for x in (out / f"{n}.jsonl").read_text().splitlines()]
    assert sorted(line["file_name"] for line in lines) == [f"R-Own/composite_images/{name}" for name in made]
    assert {line["text"] for line in lines} == {""}
    assert [x["file_name"] for x in lines] == [
        x for n in ("train", "test") for x in (out / f"{n}.txt").read_text().split()
    ]
    for name in made:
        image, mask, _ = name.split("_")
        real = np.asarray(Image.open(out / "R-Own" / "real_images" / f"{image}.jpg")).astype(int)
        region = np.asarray(Image.open(out / "R-Own" / "masks" / f"{image}_{mask}.png")) > 127
        composite = np.asarray(Image.open(out / "R-Own" / "composite_images" / name)).astype(int)
        assert np.abs(composite - real)[~region].mean() < 1.5  # JPEG
        assert np.abs(composite - real)[region].mean() > 2
    told = " ".join(f"{x['what']} {x['why']}" for x in manifest["skipped"])
    assert manifest["finished"]
    assert "p3.png" in told
    assert "p0.png, mask 2" in told
    assert "p2.png" in told


def test_it_goes_on_where_it_was_stopped(corpus, tmp_path):
    settings, sources = DataSettings(variants=2), folder_sources(*corpus)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_data_set(sources, whole, settings)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_data_set(sources, parts, settings, report=stop)
    assert not (parts / "train.jsonl").exists()
    first = (parts / "R-Own" / "composite_images" / "ro000000_1_1.jpg").stat().st_mtime_ns
    make_data_set(sources, parts, settings)
    assert (parts / "R-Own" / "composite_images" / "ro000000_1_1.jpg").stat().st_mtime_ns == first
    assert files(parts) == files(whole)


def test_another_data_set_in_the_folder_is_refused(corpus, tmp_path):
    make_data_set(folder_sources(*corpus), tmp_path / "out", DataSettings())
    with pytest.raises(RegionStyleError, match="other settings or pictures"):
        make_data_set(folder_sources(*corpus), tmp_path / "out", DataSettings(seed=1))


def test_other_masks_are_another_data_set(corpus, tmp_path):
    make_data_set(folder_sources(*corpus), tmp_path / "out", DataSettings())
    Image.fromarray((disc(48, 64)[0, 0] * 255).byte().numpy()).save(corpus[1] / "p1_more.png")
    with pytest.raises(RegionStyleError, match="other masks"):
        make_data_set(folder_sources(*corpus), tmp_path / "out", DataSettings())


def test_a_mask_belongs_to_the_longest_name(tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir(), masks.mkdir()
    for folder, names in (
        (images, ("cat.jpg", "cat_2.jpg", "dog.jpg")),
        (masks, ("cat.png", "cat_2.png", "cat_2_ear.png", "cat_tail.png", "cats.png")),
    ):
        for name in names:
            (folder / name).touch()
    found = {source.image: source.masks for source in folder_sources(images, masks)}
    assert found == {
        str(images / "cat.jpg"): (str(masks / "cat.png"), str(masks / "cat_tail.png")),
        str(images / "cat_2.jpg"): (str(masks / "cat_2.png"), str(masks / "cat_2_ear.png")),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("subset", "prefix"), [("R-DUTS", "rd"), ("R-ADE20K", "ra"), ("R-Dogs", "rx"), ("R-Own", "ro")]
)
def test_names_tell_the_subset(subset, prefix, tmp_path):
    assert tasks([], tmp_path, DataSettings(subset)) == []
    assert DataSettings(subset).prefix == prefix


@pytest.mark.parametrize("wrong", [{"subset": "../x"}, {"subset": "R-"}, {"low": 0.9, "high": 0.1}, {"high": 1.5}])
def test_settings_that_are_none(wrong):
    with pytest.raises(RegionStyleError):
        DataSettings(**wrong)


def coco(corpus, tmp_path, **change):
    square = [20, 10, 40, 10, 40, 30, 20, 30]
    table = {
        "images": [{"id": 7, "file_name": "p0.png"}, {"id": 8, "file_name": "p1.png"}],
        "annotations": [
            {"image_id": 7, "segmentation": [square]},
            {"image_id": 7, "segmentation": {"counts": [0, 500, 48 * 64 - 500], "size": [48, 64]}},
            {"image_id": 8, "segmentation": [square], "iscrowd": 1},
        ],
    } | change
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(table))
    return coco_sources(corpus[0], file)


def test_coco(corpus, tmp_path):
    (source,) = coco(corpus, tmp_path)
    _, masks = source.read(1024)
    assert [int(mask.sum()) for mask in masks] == [21 * 21, 500]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": []}, "without things"),
        ({"images": [{"id": 7, "file_name": "../p0.png"}, {"id": 8, "file_name": "p"}]}, "inside the folder"),
        ({"images": 3}, "COCO's format"),
    ],
)
def test_damaged_coco(corpus, tmp_path, change, message):
    with pytest.raises(RegionStyleError, match=message):
        coco(corpus, tmp_path, **change)


def test_missing_folders(tmp_path, corpus):
    with pytest.raises(RegionStyleError, match="--masks: got no folder"):
        folder_sources(corpus[0], tmp_path / "none")
    with pytest.raises(RegionStyleError, match="--coco: got no file"):
        coco_sources(corpus[0], tmp_path / "none.json")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RegionStyleError, match="no mask has a picture's name"):
        folder_sources(corpus[0], empty)
    shutil.rmtree(empty)


@pytest.mark.slow
def test_a_ray_cluster_of_two_workers_makes_the_same(corpus, tmp_path):
    ray = pytest.importorskip("ray", reason="ray is not installed: the cluster's data set is NOT tested")
    from regionstyle.nodes.harmonizer.data.ray_cluster import ray_runner

    settings, sources = DataSettings(variants=2), folder_sources(*corpus)
    make_data_set(sources, tmp_path / "here", settings)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        make_data_set(sources, tmp_path / "there", settings, ray_runner("local"))
    finally:
        ray.shutdown()
    assert files(tmp_path / "there") == files(tmp_path / "here")


@pytest.mark.slow
def test_a_cluster_that_is_not_there(corpus, tmp_path):
    pytest.importorskip("ray")
    from regionstyle.nodes.harmonizer.data.ray_cluster import ray_runner

    with pytest.raises(RegionStyleError, match="--ray"):
        make_data_set(folder_sources(*corpus), tmp_path / "o", DataSettings(), ray_runner("auto"))
