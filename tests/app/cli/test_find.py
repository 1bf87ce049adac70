"""`regionstyle find`: a mask and a score for every phrase, and the exit codes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import regionstyle
from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.app.evaluation.masks import held_out_scene
from regionstyle.nodes.grounding.masks.region_files import load_regions


@pytest.fixture
def scene_file(tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray((held_out_scene(660).image * 255).round().astype(np.uint8)).save(path)
    return path


@pytest.fixture
def grey_file(tmp_path):
    path = tmp_path / "grey.png"
    Image.new("RGB", (128, 128), (120, 120, 120)).save(path)
    return path


def find(path, *words):
    return main(["find", str(path), *map(str, words), "--device", "cpu"])


def test_masks_scores_and_an_overlay(scene_file, tmp_path, capsys):
    phrases, out = [thing.phrase for thing in held_out_scene(660).objects], tmp_path / "new" / "found"
    assert find(scene_file, *phrases, "-o", out, "--sam", "tinyworld", "--seed", "2") == 0
    shown = capsys.readouterr().out
    assert all(f"{phrase}: score 0." in shown for phrase in phrases)
    data = json.loads((out / "regions.json").read_text(encoding="utf-8"))
    assert [entry["phrase"] for entry in data["regions"]] == phrases
    assert all(Image.open(out / entry["mask"]).size == (128, 128) for entry in data["regions"])
    assert Image.open(out / "overlay.png").size == (512, 512)
    same = regionstyle.find(scene_file, phrases, sam="tinyworld", seed=2, device="cpu")
    for written, found in zip(load_regions(out / "regions.json"), same, strict=True):
        assert torch.allclose(written.mask, found.mask, atol=1e-4)
        assert written.score == pytest.approx(found.score)


@pytest.mark.parametrize(("more", "code"), [([], 0), pytest.param(["--strict"], 3, marks=pytest.mark.slow)])
def test_nothing_where_it_is_not(grey_file, tmp_path, capsys, more, code):
    assert find(grey_file, "second star from the left", "-o", tmp_path / "out", *more) == code
    shown = capsys.readouterr()
    assert "second star from the left: not found" in shown.out
    assert "not found in image 0" in shown.err
    mask = load_regions(tmp_path / "out" / "regions.json").items[0].mask
    assert not mask.any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dog"], "no word 'dog'"),
        (["star", "--detector", "dino"], "--sam"),
        (["star", "--sam", "nowhere.pth"], "nowhere.pth"),
        (["star", "--model", "nowhere"], "no such folder"),
        (["the"], "phrases: got 'the'"),
    ],
)
def test_wrong_input(scene_file, tmp_path, capsys, words, said):
    assert find(scene_file, *words, "-o", tmp_path / "out") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_picture_that_is_not_there(tmp_path, capsys):
    assert find(tmp_path / "none.png", "star", "-o", tmp_path / "out") == 2
    assert "no such file" in capsys.readouterr().err
