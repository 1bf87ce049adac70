"""Every loader reads a miniature data set in the published layout, written here."""

import json

import numpy as np
import pytest
from PIL import Image

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.io.rle import mask_of_runs, mask_of_segmentation, unpack_counts
from regionstyle.nodes.metrics.datasets.catalogue import KINDS, load_dataset
from regionstyle.nodes.metrics.datasets.style import pie_mask


def picture(path, size=(40, 30), color=(200, 100, 50), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def mask_file(path, box=(5, 6, 20, 18), size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((size[1], size[0]), np.uint8)
    array[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(array).save(path)
    return array > 0


def square_runs(height, width, box):
    """COCO run lengths of a box, from its definition: column by column."""
    mask = np.zeros((height, width), int)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    runs, value, count = [], 0, 0
    for pixel in mask.T.flatten():
        if pixel != value:
            runs.append(count)
            value, count = pixel, 0
        count += 1
    return mask, [*runs, count]


def pack(runs):
    """COCO's text form of run lengths, from its description."""
    text = ""
    for i, run in enumerate(runs):
        x = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            c = x & 31
            x >>= 5
            more = (x != -1) if c & 16 else (x != 0)
            text += chr((c | (32 if more else 0)) + 48)
    return text


@pytest.mark.parametrize("box", [(5, 6, 20, 18), (0, 0, 3, 30), (39, 29, 40, 30), (0, 0, 40, 30)])
def test_run_lengths_in_both_forms(box):
    mask, runs = square_runs(30, 40, box)
    assert (mask_of_runs(runs, 30, 40) == mask).all()
    assert unpack_counts(pack(runs)) == runs
    assert (mask_of_segmentation({"size": [30, 40], "counts": pack(runs)}, 30, 40) == mask).all()
    with pytest.raises(RegionStyleError, match="damaged"):
        mask_of_runs(runs, 31, 40)


def write_coco(root):
    picture(root / "val2017" / "000000000001.jpg")
    picture(root / "val2017" / "000000000002.jpg")
    picture(root / "val2017" / "000000000003.jpg")  # no object: left out
    square = [4.0, 3.0, 24.0, 3.0, 24.0, 20.0, 4.0, 20.0]
    _, runs = square_runs(30, 40, (1, 2, 9, 12))
    data = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": 30, "width": 40} for i in (3, 2, 1)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 18, "segmentation": [square], "area": 340, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "segmentation": [square], "area": 3, "iscrowd": 0},
            {"id": 3, "image_id": 1, "category_id": 1, "segmentation": {}, "area": 999, "iscrowd": 1},
            {"id": 4, "image_id": 2, "category_id": 1, "segmentation": {"size": [30, 40], "counts": pack(runs)},
             "area": 80, "iscrowd": 0},
        ],
    }  # fmt: skip
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(data), encoding="utf-8")


def test_coco(tmp_path):
    write_coco(tmp_path)
    samples = load_dataset("coco", tmp_path).samples
    assert [(s.name, s.phrase, s.style) for s in samples] == [
        ("000000000001", "dog", "cyberpunk"),
        ("000000000002", "person", "expressionism"),
    ]
    assert samples[0].prompt == "make the dog in cyberpunk style, keep other area unchanged"
    first, second = samples[0].mask(), samples[1].mask()
    assert first.shape == second.shape == (30, 40)
    assert first.mean() == pytest.approx(21 * 18 / 1200, abs=0.05)
    assert second.sum() == 80
    other = load_dataset("coco", tmp_path, ["mosaic"], limit=1).samples
    assert [s.style for s in other] == ["mosaic"]


@pytest.mark.parametrize("nested", [True, False])
def test_voc(tmp_path, nested):
    base = tmp_path / "VOCdevkit" / "VOC2012" if nested else tmp_path
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    (base / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_000033\n", encoding="utf-8")
    picture(base / "JPEGImages" / "2007_000033.jpg")
    objects = np.zeros((30, 40), np.uint8)
    objects[:5, :5], objects[10:20, 10:30], objects[9, 10:30] = 1, 2, 255
    classes = np.where(objects == 1, 12, np.where(objects == 2, 11, objects)).astype(np.uint8)
    for name, array in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        (base / name).mkdir()
        made = Image.fromarray(array, "P")
        made.putpalette([v for i in range(256) for v in (i, 0, 255 - i)])
        made.save(base / name / "2007_000033.png")
    (sample,) = load_dataset("voc", tmp_path).samples
    assert sample.phrase == "dining table"
    assert (sample.mask() == (objects == 2)).all()


def test_big(tmp_path):
    picture(tmp_path / "test" / "cat_1_im.jpg")
    truth = mask_file(tmp_path / "test" / "cat_1_gt.png")
    (sample,) = load_dataset("big", tmp_path).samples
    assert sample.name == "cat_1"
    assert (sample.mask() == truth).all()


def test_least(tmp_path):
    picture(tmp_path / "dataset" / "ducks.jpeg")
    prompts = {"ducks.jpeg": ["apply cubism style to the left duck in the image", "apply neon style to the pond"]}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    truth = mask_file(tmp_path / "masks" / "ducks_1.png")
    first, second = load_dataset("least", tmp_path).samples
    assert first.name == "ducks_0"
    assert first.prompt == prompts["ducks.jpeg"][0]
    assert first.mask is None
    assert (second.mask() == truth).all()
    (tmp_path / "prompts.json").write_text('{"geese.jpeg": ["x"]}', encoding="utf-8")
    with pytest.raises(RegionStyleError, match=r"geese\.jpeg"):
        load_dataset("least", tmp_path)


def test_pie_bench(tmp_path):
    entry = {
        "image_path": "9_change_style_80/1_artificial/1.jpg", "original_prompt": "a [photo] of a cat",
        "editing_prompt": "a [watercolor] of a cat", "editing_instruction": "", "editing_type_id": "9",
        "blended_word": "", "mask": [512 * 100 + 50, 20],
    }  # fmt: skip
    picture(tmp_path / "annotation_images" / entry["image_path"], (512, 512))
    (tmp_path / "mapping_file.json").write_text(json.dumps({"900000000001": entry}), encoding="utf-8")
    (sample,) = load_dataset("pie-bench", tmp_path).samples
    assert (sample.name, sample.prompt, sample.subset) == ("900000000001", "a watercolor of a cat", "type 9")
    mask = sample.mask()
    assert mask[100, 50:70].all()
    assert not mask[100, 49]
    assert mask.sum() == 20 + 4 * 511  # and the frame, as the benchmark's program has it
    assert pie_mask([0, 512 * 512]).all()


def test_lhq(tmp_path):
    picture(tmp_path / "LHQ1024_jpg" / "0000001.jpg")
    picture(tmp_path / "LHQ1024_jpg" / "0000000.jpg")
    (tmp_path / "readme.txt").write_text("x", encoding="utf-8")
    assert [s.name for s in load_dataset("lhq", tmp_path).samples] == ["0000000", "0000001"]
    assert [s.style for s in load_dataset("lhq", tmp_path, ["mosaic"]).samples] == ["mosaic", "mosaic"]


def write_iharmony4(root, names=("c100_7_1", "d90000003-3_1_2", "f1_1_1", "a_b_2_3")):
    parts = {"a": "HAdobe5k", "c": "HCOCO", "d": "Hday2night", "f": "HFlickr", "r": "R-DUTS"}
    paths = []
    for name in names:
        part, bits = parts[name[0]], name.split("_")
        image = "_".join(bits[:-2])
        paths.append(f"{part}/composite_images/{name}.jpg")
        picture(root / paths[-1])
        picture(root / part / "real_images" / f"{image}.jpg", color=(10, 20, 30))
        mask_file(root / part / "masks" / f"{image}_{bits[-2]}.png")
    return paths


@pytest.mark.parametrize("form", ["jsonl", "ihd", "parts"])
def test_iharmony4(tmp_path, form):
    paths = write_iharmony4(tmp_path)
    if form == "jsonl":
        lines = "\n".join(json.dumps({"file_name": p, "text": ""}) for p in paths)
        (tmp_path / "test.jsonl").write_text(lines + "\n", encoding="utf-8")
    elif form == "ihd":
        (tmp_path / "IHD_test.txt").write_text("\n".join(paths), encoding="utf-8")
    else:
        for path in paths:
            part, _, name = path.split("/")
            (tmp_path / part / f"{part}_test.txt").write_text(name + "\n", encoding="utf-8")
    samples = load_dataset("iharmony4", tmp_path).samples
    assert {s.subset for s in samples} == {"HAdobe5k", "HCOCO", "Hday2night", "HFlickr"}
    real = {s.name: s.truth.name for s in samples}
    assert real == {
        "c100_7_1": "c100.jpg",
        "d90000003-3_1_2": "d90000003-3.jpg",
        "f1_1_1": "f1.jpg",
        "a_b_2_3": "a_b.jpg",
    }
    assert all(s.mask().mean() == pytest.approx(15 * 12 / 1200) for s in samples)


@pytest.mark.parametrize("form", ["jsonl", "txt"])
def test_rpharmony(tmp_path, form):
    """Names that begin with r: their part is the folder."""
    paths = write_iharmony4(tmp_path, ("rd000001_1_1", "rd000001_1_2", "c100_7_1"))
    lines = paths if form == "txt" else [json.dumps({"file_name": path, "text": ""}) for path in paths]
    (tmp_path / f"test.{form}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    samples = load_dataset("iharmony4", tmp_path).samples
    assert [s.subset for s in samples] == ["R-DUTS", "R-DUTS", "HCOCO"]
    assert {s.truth.name for s in samples} == {"rd000001.jpg", "c100.jpg"}


def test_realhm(tmp_path):
    for kind in ("composite", "gt"):
        picture(tmp_path / "vendor_testing_1" / "7" / f"7_{kind}.jpg")
    mask_file(tmp_path / "vendor_testing_1" / "7" / "7_mask.jpg")
    (sample,) = load_dataset("realhm", tmp_path).samples
    assert sample.name == "vendor_testing_1_7_7"
    assert sample.truth.name == "7_gt.jpg"


@pytest.mark.parametrize("name", KINDS)
def test_an_empty_folder_says_what_is_missing(name, tmp_path):
    with pytest.raises(RegionStyleError) as caught:
        load_dataset(name, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_partner_is_named(tmp_path):
    paths = write_iharmony4(tmp_path, ("c100_7_1",))
    (tmp_path / "test.jsonl").write_text(json.dumps({"file_name": paths[0]}), encoding="utf-8")
    (tmp_path / "HCOCO" / "masks" / "c100_7.png").unlink()
    with pytest.raises(RegionStyleError, match=r"c100_7\.png"):
        load_dataset("iharmony4", tmp_path)


def test_wrong_names_are_refused(tmp_path):
    with pytest.raises(RegionStyleError, match="coco, voc"):
        load_dataset("imagenet", tmp_path)
    with pytest.raises(RegionStyleError, match="--style"):
        load_dataset("realhm", tmp_path, ["mosaic"])


def test_published_figures_have_a_cell_per_column():
    from regionstyle.nodes.metrics.datasets import published

    tables = [v for v in vars(published).values() if isinstance(v, published.Published)]
    assert len(tables) == 8
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows.values())
