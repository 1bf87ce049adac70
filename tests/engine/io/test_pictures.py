"""Pictures of every kind a file can hold, and their size before they are decoded."""

import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from regionstyle.nodes.app.png16 import png16
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.io import pictures
from regionstyle.nodes.engine.io.pictures import decoded, read_image, read_picture

RAMP = np.tile(np.linspace(0, 1, 64), (8, 1))


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("eight.png", (RAMP * 255).round().astype(np.uint8)),
        ("sixteen.png", (RAMP * 65535).round().astype(np.uint16)),
        ("sixteen.tif", (RAMP * 65535).round().astype(np.uint16)),
        ("whole.tif", (RAMP * 65535).round().astype(np.int32)),
        ("float.tif", RAMP.astype(np.float32)),
    ],
)
def test_grey_of_every_depth_is_the_same_ramp(tmp_path, name, stored):
    Image.fromarray(stored).save(tmp_path / name)
    picture = read_picture(tmp_path / name)
    assert np.abs(picture.mask.numpy() - RAMP).max() < 1 / 500
    assert np.abs(picture.image[0, 2].numpy() - RAMP).max() < 1 / 500
    assert picture.values.dtype == (np.uint16 if stored.dtype == np.int32 else stored.dtype)


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (90, 20, 200)])
def test_a_shape_in_the_transparency_is_the_mask(tmp_path, color):
    shape = np.zeros((8, 64), np.uint8)
    shape[2:5, 10:30] = 255
    Image.fromarray(np.dstack([np.full((8, 64, 3), color, np.uint8), shape])).save(tmp_path / "m.png")
    picture = read_picture(tmp_path / "m.png")
    assert picture.shaped_by_alpha
    assert (picture.mask.numpy() == (shape > 0)).all()


def test_black_and_white_with_transparency_is_white_and_seen():
    values = np.zeros((4, 4, 2), np.uint8)
    values[:2, :, 0], values[:, :2, 1] = 255, 255
    wanted = np.zeros((4, 4))
    wanted[:2, :2] = 1
    assert (decoded(Image.fromarray(values)).mask.numpy() == wanted).all()


def test_hidden_colours_are_not_shown(tmp_path):
    values = np.dstack([np.full((8, 8, 3), (0, 255, 0), np.uint8), np.full((8, 8), 0, np.uint8)])
    values[:, 4:, 3] = 128
    Image.fromarray(values).save(tmp_path / "c.png")
    assert (read_picture(tmp_path / "c.png").image[..., :4] == 1).all()
    shown = read_image(tmp_path / "c.png")[0, :, 0]
    assert shown[:, 0].tolist() == [1, 1, 1]
    assert shown[0, 7] == pytest.approx(127 / 255)
    assert shown[1, 7] == 1


def test_palette_and_colour_key_transparency():
    grey = Image.fromarray((RAMP * 255).astype(np.uint8))
    palette = grey.convert("P")
    palette.info["transparency"] = int(np.asarray(palette)[0, 0])
    keyed = grey.convert("RGB")
    keyed.info["transparency"] = (0, 0, 0)
    for one in (palette, keyed):
        assert decoded(one).alpha[0, 0] == 0
        assert decoded(one).alpha[0, 60] == 255


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((4, 4), 300.0, np.float32), "mode 'F' with values from 300 to 300"),
        (np.full((4, 4), np.nan, np.float32), "values from nan"),
        (np.full((4, 4), 70000, np.int32), "values from 70000 to 70000"),
        (np.full((4, 4), -1, np.int32), "values from -1"),
    ],
)
def test_values_that_are_no_greys(values, said):
    with pytest.raises(RegionStyleError, match=said):
        decoded(Image.fromarray(values))


def test_sixteen_bits_of_colour_are_said(tmp_path):
    values = (np.dstack([RAMP] * 3) * 65535).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(png16(values))
    picture = read_picture(tmp_path / "deep.png")
    assert picture.notices == ("its 16 bits per colour are read as 8",)
    assert np.abs(picture.values.astype(int) - (values >> 8)).max() <= 1


def test_orientation_is_applied_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    Image.fromarray((RAMP * 255).astype(np.uint8)).save(tmp_path / "o.jpg", exif=exif)
    picture = read_picture(tmp_path / "o.jpg", size=(64, 8))
    assert picture.size == (64, 8)
    told = Image.Exif()
    told.load(picture.exif)
    assert told.get(0x0112, 1) == 1
    assert told[0x010F] == "maker"


def bomb(path, side):
    """A small file that unfolds to side x side pixels."""
    packed = zlib.compressobj(9)
    rows = b"".join([packed.compress(bytes(1 + side // 8)) for _ in range(side)] + [packed.flush()])
    from regionstyle.nodes.app.png16 import _SIGNATURE, _chunk

    head = side.to_bytes(4, "big") * 2 + bytes((1, 0, 0, 0, 0))
    path.write_bytes(_SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b""))


def test_a_picture_is_not_decoded_when_its_size_is_wrong(tmp_path, monkeypatch):
    bomb(tmp_path / "b.png", 12000)
    monkeypatch.setattr(pictures, "decoded", lambda *_: pytest.fail("decoded"))
    with pytest.raises(RegionStyleError, match="12000 x 12000 pixels, expected the picture's 8 x 8"):
        read_picture(tmp_path / "b.png", size=(8, 8))
    with pytest.raises(RegionStyleError, match="12000 x 12000 pixels, expected at most 134 million"):
        read_picture(tmp_path / "b.png")


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 30])
def test_what_is_no_picture_is_said_in_one_sentence(tmp_path, content):
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(RegionStyleError, match="cannot be read"):
        read_picture(tmp_path / "p.png")


def test_a_truncated_picture(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "t.png")
    data = (tmp_path / "t.png").read_bytes()
    (tmp_path / "t.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(RegionStyleError, match="cannot be read"):
        read_picture(tmp_path / "t.png")


def test_values_stay_what_they_are():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = decoded(Image.fromarray(levels)).image
    assert torch.equal((image * 255).round().to(torch.uint8)[0, 0], torch.from_numpy(levels))
