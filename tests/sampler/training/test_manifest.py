"""The manifest of pairs: what is read, and what is refused by name."""

import json

import pytest
import torch
from pair_files import write_pairs
from PIL import Image

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.sampler.training.manifest import Record, read_manifest, write_manifest
from regionstyle.nodes.sampler.training.pairs import read_square


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def test_pairs_are_read_with_masks_of_any_mode(manifest):
    pairs = read_manifest(manifest)
    assert [pair.name for pair in pairs] == ["00000", "00001", "00002"]
    assert all(pair.things[0].style == "mosaic" for pair in pairs)
    square = read_square(pairs[0], 64)
    assert square.pictures.shape == (2, 3, 64, 64)
    inside = square.masks[0] > 0.99
    assert 0 < inside.float().mean() < 1
    changed = (square.pictures[0] - square.pictures[1]).abs().amax(0)
    assert changed[square.masks[0] == 0].max() < 0.01
    assert changed[inside].mean() > 0.02
    assert read_square(pairs[0], 32).masks.shape == (1, 32, 32)


def test_what_is_written_is_read_again(manifest, tmp_path):
    records = [Record(**entry) for entry in json.loads(manifest.read_text())]
    write_manifest(records, tmp_path / "again.json")
    again = read_manifest(tmp_path / "again.json", manifest.parent)
    assert [pair.prompt for pair in again] == [record.prompt for record in records]


def test_every_missing_file_is_named(manifest, tmp_path):
    entries = json.loads(manifest.read_text())
    entries[1]["objects"] = {"red  whale": "mosaic"}
    entries[2]["image_path"] = "styled/none.png"
    (tmp_path / "x.json").write_text(json.dumps(entries))
    with pytest.raises(RegionStyleError, match=r"2 files.*mask_00001_red  whale\.png.*none\.png") as problem:
        read_manifest(tmp_path / "x.json", manifest.parent)
    assert "00000" not in str(problem.value)
    with pytest.raises(RegionStyleError, match="and 4 more"):
        read_manifest(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "no JSON"),
        ("{}", "a dict"),
        ("[]", "an empty list"),
        ("[3]", "record 1: got a int"),
        ('[{"prompt": "a"}]', "image_path"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path, text, part):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(RegionStyleError, match=part):
        read_manifest(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("key", "value"), [("prompt", 3), ("objects", {}), ("objects", ["man"]), ("objects", {"a": 1})]
)
def test_wrong_values_are_refused(manifest, tmp_path, key, value):
    entries = json.loads(manifest.read_text())
    entries[0][key] = value
    (tmp_path / "x.json").write_text(json.dumps(entries))
    with pytest.raises(RegionStyleError, match=f"record 1.*{key}"):
        read_manifest(tmp_path / "x.json", manifest.parent)


def test_without_a_file(tmp_path):
    with pytest.raises(RegionStyleError, match="no file"):
        read_manifest(tmp_path / "none.json")


def test_pictures_of_two_sizes_are_refused(tmp_path):
    manifest = write_pairs(tmp_path, 1)
    Image.new("RGB", (32, 32)).save(tmp_path / "before" / "00000.png")
    (pair,) = read_manifest(manifest)
    with pytest.raises(RegionStyleError, match="the original with 32 x 32"):
        read_square(pair, 64)


def test_the_middle_square_of_a_wide_picture(tmp_path):
    manifest = write_pairs(tmp_path, 1)
    for file in tmp_path.rglob("*.png"):
        wide = Image.new(Image.open(file).mode, (128, 64))
        wide.paste(Image.open(file), (32, 0))
        wide.save(file)
    (pair,) = read_manifest(manifest)
    assert torch.equal(read_square(pair, 64).masks[0], pair.things[0].mask()[:, 32:96])
