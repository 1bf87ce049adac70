"""The pictures an expert is trained on: what is read, what they are called, how they are cropped."""

import pytest
import torch
from PIL import Image

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.router.training.examples import Examples
from regionstyle.nodes.router.training.style_pictures import (
    Cropping,
    Crops,
    check_style,
    pictures_of_batch,
    pictures_of_folder,
    prompt_of,
)


def save(path, size=(24, 16), value=128):
    Image.new("RGB", size, (value, 10, 20)).save(path)


def batch(count=3, height=16, width=16):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_a_folder_gives_its_pictures_by_name_with_captions(tmp_path):
    for name in ("b.png", "a.jpg", "c.webp", ".hidden.png"):
        save(tmp_path / name)
    (tmp_path / "b.txt").write_text("a red\n star ", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no picture")
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "sub.png").rmdir()
    found = pictures_of_folder(tmp_path)
    assert [(one.name, one.caption) for one in found] == [("a.jpg", ""), ("b.png", "a red star"), ("c.webp", "")]
    assert found[1].read().shape == (3, 16, 24)


def test_folders_that_cannot_be_used_are_clear_errors(tmp_path):
    with pytest.raises(RegionStyleError, match="no such folder"):
        pictures_of_folder(tmp_path / "none")
    with pytest.raises(RegionStyleError, match="no picture in"):
        pictures_of_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(RegionStyleError, match=r"a\.png"):
        pictures_of_folder(tmp_path)[0].read()
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(RegionStyleError, match="UTF-8"):
        pictures_of_folder(tmp_path)


def test_too_few_pictures_are_refused():
    with pytest.raises(RegionStyleError, match="2 pictures, expected 3"):
        Crops(pictures_of_batch(batch(2), []), Cropping(16), 0)
    with pytest.raises(RegionStyleError, match="captions"):
        pictures_of_batch(batch(3), ["a", "b"])
    with pytest.raises(RegionStyleError, match="style"):
        check_style("  ")


@pytest.mark.parametrize(
    ("caption", "style", "prompt"),
    [
        ("a red star", "mosaic", "a red star in mosaic style"),
        ("", "mosaic", "a picture in mosaic style"),
        ("", "Van Gogh style", "a picture in Van Gogh style"),
        ("a star as Mosaic", "mosaic", "a star as Mosaic"),
    ],
)
def test_prompts_name_the_style_as_everywhere(caption, style, prompt):
    assert prompt_of(caption, style) == prompt


def test_a_square_picture_of_the_right_size_stays_as_it_is():
    images = batch()
    crops = Crops(pictures_of_batch(images, []), Cropping(16), 0)
    made, mark = crops.images(1)
    assert torch.equal(made, torch.stack([images[1], images[1].flip(-1)]))
    changed = images.clone()
    changed[1, 0, 3, 3] += 0.01
    assert Crops(pictures_of_batch(changed, []), Cropping(16), 0).images(1)[1] != mark
    assert len(Crops(pictures_of_batch(images, []), Cropping(16, flip=False), 0).images(1)[0]) == 1


def test_crops_lie_inside_and_follow_the_seed():
    ramp = torch.linspace(0, 1, 40).expand(3, 3, 20, 40).clone()

    def crops(seed, smallest=1.0):
        return Crops(pictures_of_batch(ramp, []), Cropping(20, smallest, count=6, flip=False), seed).images(0)[0]

    made = crops(0)
    assert made.shape == (6, 3, 20, 20)
    starts = [float(one[0, 0, 0]) for one in made]
    assert len(set(starts)) > 3
    assert all(torch.allclose(one[0, 0, -1] - one[0, 0, 0], ramp[0, 0, 0, 19]) for one in made)
    assert torch.equal(made, crops(0))
    assert not torch.equal(made, crops(1))
    spans = [float(one[0, 0, -1] - one[0, 0, 0]) for one in crops(0, 0.5)]
    assert min(spans) < 0.45 < max(spans) + 0.1


def test_every_picture_is_drawn_once_per_round():
    latents = [torch.full((2, 4, 2, 2), float(at)) for at in range(5)]
    examples = Examples(latents, [None] * 5, [""] * 5, None, "")
    drawn = [examples.draw(7, number) for number in range(10)]
    assert sorted(d.picture for d in drawn[:5]) == sorted(d.picture for d in drawn[5:]) == list(range(5))
    assert [d.picture for d in drawn[:5]] != [d.picture for d in drawn[5:]]
    assert all(float(d.latent.mean()) == d.picture for d in drawn)
    assert len({d.timestep for d in drawn}) > 5
    again = examples.draw(7, 3)
    assert torch.equal(again.noise, drawn[3].noise)
    assert not torch.equal(again.noise, drawn[4].noise)
