"""The main job, end to end, as a user runs it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.engine.io import pictures

PICTURES = ["input", "attention", "mask", "result", "truth", "sheet"]
NUMBERS = ["seed", "prompt", "phrase", "style", "seconds", "peak_memory_mb", "mask_iou", "psnr_region_input",
           "psnr_region_result", "style_score", "background_equal"]  # fmt: skip


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--out", str(folder), "--device", "cpu"]) == 0
    return folder


@pytest.mark.slow
class TestDemo:
    def test_writes_every_picture_and_number(self, demo):
        assert all((demo / f"{name}.png").is_file() for name in PICTURES)
        numbers = json.loads((demo / "metrics.json").read_text())
        assert [name for name in NUMBERS if name not in numbers] == []

    def test_does_its_job(self, demo):
        numbers = json.loads((demo / "metrics.json").read_text())
        assert numbers["background_equal"] is True
        assert numbers["mask_iou"] >= 0.4
        assert numbers["style_score"] >= 0.5
        assert numbers["psnr_region_result"] > numbers["psnr_region_input"]

    def test_the_written_pictures_are_equal_where_the_mask_is_black(self, demo):
        outside = pixels(demo / "mask.png").max(-1) == 0
        assert (pixels(demo / "input.png")[outside] == pixels(demo / "result.png")[outside]).all()

    def test_a_photograph_in_two_styles_at_full_size(self, demo):
        photo = json.loads((demo / "metrics.json").read_text())["photo"]
        assert photo["background_equal"] is True
        assert min(photo["region_changed"]) > 0.03
        names = ["photograph", "outlined", *photo["styles"]]
        assert len({pixels(demo / f"photo-{name}.png").tobytes() for name in names}) == 4
        assert pixels(demo / "photo-photograph.png").shape == (300, 451, 3)

    def test_another_scene_is_another_picture(self, demo, tmp_path):
        assert main(["demo", "--out", str(tmp_path), "--scene", "3", "--style", "pixel art", "--device", "cpu"]) == 0
        assert (pixels(tmp_path / "input.png") != pixels(demo / "input.png")).any()
        assert json.loads((tmp_path / "metrics.json").read_text())["style"] == "pixel art"


@pytest.mark.slow
def test_the_same_scene_and_seed_give_the_same_files(tmp_path):
    """As two users run it: each in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "regionstyle.nodes.app.cli.main",
        "demo",
        "--seed",
        "5",
        "--scene",
        "4",
        "--device",
        "cpu",
    ]
    for name in ("one", "two"):
        subprocess.run([*command, "--out", str(tmp_path / name)], check=True, capture_output=True, timeout=600)
    for name in PICTURES:
        first, second = (tmp_path / folder / f"{name}.png" for folder in ("one", "two"))
        assert first.read_bytes() == second.read_bytes(), name
    numbers = [json.loads((tmp_path / folder / "metrics.json").read_text()) for folder in ("one", "two")]
    for one in numbers:
        del one["seconds"], one["peak_memory_mb"]
    assert numbers[0] == numbers[1]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (150, 211, 3), dtype=np.uint8)).save(path)
    return path


def fails(capsys, *words: str) -> str:
    assert main(["stylize", *words, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


class TestStylize:
    @pytest.mark.slow
    @pytest.mark.parametrize("region", [["--box", "20,30,90,110"], ["--whole"]])
    def test_a_given_region(self, photo, tmp_path, region):
        out = tmp_path / "out.png"
        words = ["stylize", str(photo), "make it mosaic", "-o", str(out), "--steps", "2", "--device", "cpu", *region]
        assert main(words) == 0
        before, after = pixels(photo), pixels(out)
        assert before.shape == after.shape
        assert (before != after).any()
        if region[0] == "--box":
            assert (before[:, 100:] == after[:, 100:]).all()

    def test_mask_file(self, photo, tmp_path, capsys):
        mask = tmp_path / "mask.png"
        Image.new("L", (5, 5), 255).save(mask)
        assert "211 x 150" in fails(capsys, str(photo), "make it mosaic", "-o", "o.png", "--mask", str(mask))

    def test_a_word_it_does_not_know(self, photo, capsys):
        error = fails(capsys, str(photo), "make the dog mosaic", "-o", "o.png")
        assert "dog" in error
        assert "--box" in error

    def test_unknown_style(self, photo, capsys):
        assert "mosaic" in fails(capsys, str(photo), "turn the star into cubism", "-o", "o.png")

    def test_unreadable_image(self, tmp_path, capsys):
        bad = tmp_path / "bad.png"
        bad.write_text("no picture")
        assert "cannot be read" in fails(capsys, str(bad), "make the star mosaic", "-o", "o.png")
        assert "no such file" in fails(capsys, str(tmp_path / "none.png"), "make the star mosaic", "-o", "o.png")

    def test_a_picture_of_too_many_pixels(self, photo, capsys, monkeypatch):
        words = str(photo), "make the star mosaic", "-o", "o.png"
        monkeypatch.setattr(pictures, "LARGEST", 1000)
        assert "pixels, expected at most" in fails(capsys, *words)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        assert "more pixels than Pillow opens" in fails(capsys, *words)

    @pytest.mark.slow
    def test_the_whole_of_a_long_picture(self, tmp_path):
        long, out = tmp_path / "long.png", tmp_path / "out.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 3000, 3), dtype=np.uint8)).save(long)
        words = ["stylize", str(long), "make it mosaic", "-o", str(out), "--steps", "2", "--device", "cpu", "--whole"]
        assert main(words) == 0
        assert pixels(out).shape == (40, 3000, 3)

    def test_missing_model(self, photo, tmp_path, capsys):
        assert "no such folder" in fails(capsys, str(photo), "x in y", "-o", "o.png", "--model", str(tmp_path / "none"))
        assert "unet" in fails(capsys, str(photo), "x in y", "-o", "o.png", "--model", str(tmp_path))

    def test_expert_without_a_model(self, photo, tmp_path, capsys):
        error = fails(
            capsys, str(photo), "make the star mosaic", "-o", "o.png", "--expert", str(tmp_path / "a.safetensors")
        )
        assert "--model" in error
