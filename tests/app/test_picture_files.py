"""What an edited picture's file keeps, and what is said where it cannot."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from regionstyle.nodes.app.picture_files import save_edited
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.io.pictures import read_picture

H, W = 12, 20
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RNG = np.random.default_rng(1)
COLORS = RNG.integers(0, 256, (H, W, 3), np.uint8)
MASK = torch.zeros(1, H, W)
MASK[:, 4:8, 5:9] = 1.0
INSIDE = MASK[0].numpy() > 0
PAINTED = torch.zeros(1, 3, H, W)
PAINTED[:, 0] = 1.0


def edited(tmp_path, source, target="out.png", painted=PAINTED, **saved):
    source[1].save(tmp_path / source[0], **saved)
    picture = read_picture(tmp_path / source[0])
    lost = save_edited(picture, painted, MASK, tmp_path / target)
    return picture, lost, tmp_path / target


@pytest.mark.parametrize("target", ["out.png", "out.tif", "out.webp"])
def test_transparency_profile_and_hidden_colours_stay(tmp_path, target):
    alpha = RNG.integers(0, 2, (H, W), np.uint8) * 200
    values = np.dstack([COLORS, alpha])
    exif = Image.Exif()
    exif[0x010F] = "maker"
    _, lost, out = edited(tmp_path, ("in.png", Image.fromarray(values)), target, icc_profile=PROFILE, exif=exif)
    back = Image.open(out)
    assert back.mode == "RGBA"
    assert not lost
    assert (np.asarray(back)[~INSIDE] == values[~INSIDE]).all()
    assert (np.asarray(back)[INSIDE][:, :3] == (255, 0, 0)).all()
    assert (np.asarray(back)[..., 3] == alpha).all()
    assert back.info["icc_profile"] == PROFILE
    assert back.getexif()[0x010F] == "maker"


def test_sixteen_bit_grey_keeps_its_bits_in_png(tmp_path):
    stored = RNG.integers(0, 65536, (H, W)).astype(np.uint16)
    _, lost, out = edited(tmp_path, ("in.png", Image.fromarray(stored)))
    back = read_rgb16(out)
    assert not lost
    assert (back[~INSIDE] == stored[~INSIDE][:, None]).all()
    assert (back[INSIDE] == (65535, 0, 0)).all()


@pytest.mark.parametrize("target", ["out.png", "out.tif"])
def test_sixteen_bit_grey_that_stays_grey(tmp_path, target):
    stored = RNG.integers(0, 65536, (H, W)).astype(np.uint16)
    _, lost, out = edited(tmp_path, ("in.png", Image.fromarray(stored)), target, torch.full((1, 3, H, W), 0.5))
    back = np.asarray(Image.open(out))
    assert not lost
    assert back.dtype == np.uint16
    assert (back[~INSIDE] == stored[~INSIDE]).all()
    assert (back[INSIDE] == 32768).all()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("out.jpg", ["no transparency", "changes values everywhere"]),
        ("out.bmp", ["no transparency", "profile is left out"]),
        ("out.gif", ["no transparency", "profile is left out", "changes values"]),
    ],
)
def test_what_a_format_cannot_hold_is_said(tmp_path, target, said):
    values = np.dstack([COLORS, np.full((H, W), 0, np.uint8)])
    _, lost, out = edited(tmp_path, ("in.png", Image.fromarray(values)), target, icc_profile=PROFILE)
    assert all(any(part in text for text in lost) for part in said), lost
    assert len(lost) == len(said)
    corner = Image.open(out).convert("RGB").getpixel((W - 1, 0))
    assert min(corner) > 240  # white, not what was hidden


def test_sixteen_bits_in_a_format_of_eight_are_said(tmp_path):
    stored = RNG.integers(0, 65536, (H, W)).astype(np.uint16)
    _, lost, out = edited(tmp_path, ("in.png", Image.fromarray(stored)), "out.webp")
    assert lost == ["16 bits per colour are rounded to the 8 that a colour WEBP can hold here; PNG holds 16"]
    assert np.abs(np.asarray(Image.open(out))[~INSIDE][:, 0] / 255 - stored[~INSIDE] / 65535).max() < 1 / 500


def test_a_grey_profile_is_not_given_to_colours(tmp_path):
    _, lost, out = edited(tmp_path, ("in.png", Image.fromarray(COLORS[..., 0])), icc_profile=PROFILE)
    assert lost == ["the colour profile is left out, since it is one of grey"]
    assert "icc_profile" not in Image.open(out).info


def test_nothing_is_left_where_writing_fails(tmp_path):
    Image.fromarray(COLORS).save(tmp_path / "in.png")
    picture = read_picture(tmp_path / "in.png")
    (tmp_path / "out.png").mkdir()
    with pytest.raises(RegionStyleError, match="cannot|can be written"):
        save_edited(picture, PAINTED, MASK, tmp_path / "out.png")
    with pytest.raises(RegionStyleError, match="picture ending"):
        save_edited(picture, PAINTED, MASK, tmp_path / "out.xyz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "out.png"]


def read_rgb16(path):
    """The values of a 16-bit RGB PNG with the filter Sub, of which Pillow reads 8; Pillow checks the file first."""
    import zlib

    assert Image.open(path).convert("RGB").size == (W, H)
    data, at, packed = path.read_bytes(), 8, b""
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        packed += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(H, 1 + 6 * W)
    assert (rows[:, 0] == 1).all()
    values = rows[:, 1:].reshape(H, W, 6).cumsum(1, dtype=np.uint64).astype(np.uint8)
    return np.ascontiguousarray(values).view(">u2").astype(np.uint16)
