"""`regionstyle apply` and `regionstyle train sms-generator`, from the command line to the files they write."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from regionstyle.nodes.app.cli import main as cli
from regionstyle.nodes.app.cli.apply import planned
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.sms.generator.files import StyleGenerator, load_generator, save_generator
from regionstyle.nodes.sms.generator.network import new_generator


def picture(path, size=(50, 34), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(array).save(path)
    return path


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def generator(tmp_path):
    network = new_generator("tiny")
    torch.nn.init.constant_(network.tail.bias, 0.3)
    save_generator(StyleGenerator(network, "pale"), tmp_path / "pale.safetensors")
    return tmp_path / "pale.safetensors"


def test_one_picture_and_a_mask(tmp_path, generator, capsys):
    source, mask = picture(tmp_path / "in.png"), np.zeros((34, 50), np.uint8)
    mask[5:20, 10:30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    line = ["apply", str(source), "--generator", str(generator), "-o", str(tmp_path / "out.png"), "--device", "cpu"]
    assert cli.main([*line, "--mask", str(tmp_path / "mask.png"), "--tile", "16"]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out.png'}\n"
    made, before = pixels(tmp_path / "out.png"), pixels(source)
    assert (made[mask == 0] == before[mask == 0]).all()
    assert np.abs(made[mask > 0].astype(int) - before[mask > 0]).mean() > 20


@pytest.mark.parametrize(("more", "code"), [([], 0), (["--strict"], 3)])
def test_a_mask_that_selects_nothing_is_said(tmp_path, generator, capsys, more, code):
    source, out = picture(tmp_path / "in.png"), tmp_path / "out.png"
    Image.new("L", (50, 34), 0).save(tmp_path / "mask.png")
    line = ["apply", str(source), "--generator", str(generator), "-o", str(out), "--device", "cpu"]
    assert cli.main([*line, "--mask", str(tmp_path / "mask.png"), *more]) == code
    assert f"{source}: empty mask, unchanged: image 0" in capsys.readouterr().err
    assert cli.main([*line, *more]) == 0
    assert not capsys.readouterr().err.count("unchanged")


def test_the_file_is_the_same_outside_the_mask(tmp_path, generator, capsys):
    """16 bits, transparency and all; and what a format cannot hold is said."""
    rng = np.random.default_rng(0)
    grey, mask = rng.integers(0, 65536, (34, 50)).astype(np.uint16), np.zeros((34, 50), np.uint8)
    mask[5:20, 10:30] = 255
    seen = rng.integers(0, 2, (34, 50, 1)).astype(np.uint8) * 255
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.concatenate([rng.integers(0, 256, (34, 50, 3), np.uint8), seen], -1)).save(tmp_path / "cut.png")
    Image.fromarray(np.dstack([np.zeros_like(mask)] * 3 + [mask])).save(tmp_path / "shape.png")
    for name, out in (("grey.png", "grey.out.tif"), ("cut.png", "cut.out.png"), ("cut.png", "cut.jpg")):
        line = ["apply", str(tmp_path / name), "--generator", str(generator), "-o", str(tmp_path / out)]
        assert cli.main([*line, "--mask", str(tmp_path / "shape.png"), "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    before, after = (np.asarray(Image.open(tmp_path / name)) for name in ("cut.png", "cut.out.png"))
    assert (before[mask == 0] == after[mask == 0]).all()
    assert (before[..., 3] == after[..., 3]).all()
    assert (before[mask > 0] != after[mask > 0]).any()
    assert "its shape is that of its opaque part" in said
    assert "cut.jpg: JPEG has no transparency" in said
    assert "grey.out.tif: 16 bits per colour are rounded to the 8" in said
    assert "cut.out.png" not in said


def test_folders_and_files_go_into_a_folder_under_their_names(tmp_path, generator, capsys):
    for name in ("0001.png", "0002.png", "deep/0003.png"):
        picture(tmp_path / "frames" / name, seed=len(name))
    single, out = picture(tmp_path / "other.webp"), tmp_path / "out"
    line = ["apply", str(tmp_path / "frames"), str(single), "--generator", str(generator), "-o", str(out)]
    assert cli.main([*line, "--device", "cpu"]) == 0
    assert "(4 pictures)" in capsys.readouterr().out
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert found == ["0001.png", "0002.png", "deep/0003.png", "other.webp"]
    assert (pixels(out / "0001.png") != pixels(tmp_path / "frames" / "0001.png")).any()


def test_a_picture_that_cannot_be_read_is_left_out_and_named(tmp_path, generator, capsys):
    """ "._a.png" is no picture: macOS writes it beside a.png on foreign disks."""
    frames, out = tmp_path / "frames", tmp_path / "out"
    for name in ("a.png", "b.png", "d.png"):
        picture(frames / name)
    (frames / "c.png").write_bytes(b"broken")
    (frames / "._a.png").write_bytes(b"\x00\x05\x16\x07")
    line = ["apply", str(frames), "--generator", str(generator), "-o", str(out), "--device", "cpu"]
    assert cli.main(line) == 1
    said = capsys.readouterr()
    assert said.out == f"wrote {out} (3 pictures)\n"
    first, last = said.err.splitlines()[-2:]
    assert first.startswith(f"regionstyle: left out {frames / 'c.png'}: ")
    assert last == "regionstyle: 1 of 4 pictures were left out"
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "d.png"]


def test_one_picture_that_cannot_be_read_is_an_error(tmp_path, generator, capsys):
    (tmp_path / "c.png").write_bytes(b"broken")
    line = ["apply", str(tmp_path / "c.png"), "--generator", str(generator), "-o", str(tmp_path / "out.png")]
    assert cli.main([*line, "--device", "cpu"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_picture_goes_to_a_file_of_any_kind_that_is_written(tmp_path, generator):
    picture(tmp_path / "in.gif")
    line = ["apply", str(tmp_path / "in.gif"), "--generator", str(generator), "-o", str(tmp_path / "out.gif")]
    assert cli.main([*line, "--device", "cpu"]) == 0
    with Image.open(tmp_path / "out.gif") as made:
        assert (made.format, made.size) == ("GIF", (50, 34))


def test_what_cannot_be_written_is_said_before_anything_is(tmp_path):
    one, two = picture(tmp_path / "a.png"), picture(tmp_path / "deep" / "a.png")
    folder = tmp_path / "empty"
    folder.mkdir()
    for sources, output, said in (
        ([one, two], tmp_path / "out", "several"),
        ([one, tmp_path / "deep"], tmp_path / "out.png", "expected a folder"),
        ([one], tmp_path, "Nothing is overwritten"),
        ([folder], tmp_path / "out", "holds none"),
        ([tmp_path / "absent.png"], tmp_path / "out", "no such file"),
    ):
        with pytest.raises(RegionStyleError, match=said):
            planned(sources, output)
    assert planned([one], tmp_path / "b.png") == [(one, tmp_path / "b.png")]
    assert planned([one], tmp_path / "out") == [(one, tmp_path / "out" / "a.png")]


def test_a_generator_that_is_not_there(tmp_path, capsys):
    line = ["apply", str(picture(tmp_path / "in.png")), "--generator", "moonlight", "-o", str(tmp_path / "out.png")]
    assert cli.main([*line, "--device", "cpu"]) == 2
    assert "moonlight" in capsys.readouterr().err


TRAIN = ["train", "sms-generator", "--style", "watercolor", "--iterations", "2", "--warm-up", "1", "--size", "32",
         "--copies", "1", "--preview-every", "1", "--device", "cpu", "--no-relevance"]  # fmt: skip


@pytest.mark.slow
def test_training_writes_generator_pictures_and_losses(tmp_path, capsys):
    picture(tmp_path / "photos" / "a.png", (80, 60))
    out = tmp_path / "made.safetensors"
    line = [*TRAIN, "--images", str(tmp_path / "photos"), "-o", str(out)]
    assert cli.main(line) == 0
    made = load_generator(out)
    assert (made.style, made.network.name) == ("watercolor", "tiny")
    names = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert names == [f"iteration-{i:06d}.png" for i in range(4)] + ["losses.png"]
    assert not out.with_suffix(".train.pt").exists()
    capsys.readouterr()
    assert cli.main([*line, "--resume"]) == 2
    assert "Leave out --resume" in capsys.readouterr().err
    out.with_suffix(".train.pt").write_bytes(b"an earlier one")
    assert cli.main(line) == 2
    assert "--resume" in capsys.readouterr().err


def test_options_of_training_that_do_not_fit(tmp_path, capsys):
    out = str(tmp_path / "made.safetensors")
    for more, said in (
        (["-o", str(tmp_path / "made.pt")], ".safetensors"),
        (["-o", out, "--images", str(tmp_path / "absent")], "no such folder"),
        (["-o", out, "--expert", "x.safetensors"], "leave --expert out"),
        (["-o", out, "--model", str(tmp_path)], "--images"),
    ):
        assert cli.main([*TRAIN, *more]) == 2
        assert said in capsys.readouterr().err


def stylized(tmp_path, source, *more):
    out = tmp_path / "out.png"
    line = ["stylize", str(source), "make it watercolor", "-o", str(out), "--device", "cpu", *more]
    return cli.main(line), (pixels(out) if out.exists() else None)


def test_stylize_paints_a_large_picture_by_the_bundled_generator(tmp_path):
    """At its own size, as `apply` does, and bit-equal outside the region; the expert where it is asked for."""
    source, box = picture(tmp_path / "photo.png", (300, 200)), ["--box", "40,30,200,150"]
    code, made = stylized(tmp_path, source, *box)
    assert code == 0
    whole = tmp_path / "whole.png"
    assert cli.main(["apply", str(source), "--generator", "watercolor", "-o", str(whole), "--device", "cpu"]) == 0
    assert (made[40:140, 50:190] == pixels(whole)[40:140, 50:190]).all()
    before = pixels(source)
    outside = np.ones((200, 300), bool)
    outside[28:152, 38:202] = False
    assert (made[outside] == before[outside]).all()
    assert (made[40:140, 50:190] != before[40:140, 50:190]).any()
    for more in (["--generator", "off", "--steps", "1"], ["--steps", "1"]):
        code, redrawn = stylized(tmp_path, source, *box, *more)
        assert code == 0
        assert (redrawn[40:140, 50:190] != made[40:140, 50:190]).any()


def test_which_pictures_a_generator_paints():
    from regionstyle.nodes.app.edit import EditSettings
    from regionstyle.nodes.app.local_model import LocalModel
    from regionstyle.nodes.app.painters.expert import ExpertPainter
    from regionstyle.nodes.app.painters.registry import PainterContext, painter_named
    from regionstyle.nodes.engine.region.region import Region

    def painted_by(size, style, *, tiny=True, generator=None, name="automatic", **chosen):
        """The style of the generator that paints; None for the expert."""
        model = LocalModel(SimpleNamespace(host=None), tiny)
        region = Region.of_mask("thing", torch.ones(size), style=style)
        painter = painter_named(name, PainterContext(model, EditSettings(**chosen), generator))
        painter = painter._painter(region) if name == "automatic" else painter
        return None if isinstance(painter, ExpertPainter) else painter.generator.style

    large, small = (129, 400), (128, 400)
    assert painted_by(large, "watercolor") == "watercolor"
    assert painted_by(small, "watercolor") is None
    assert painted_by(large, "watercolor", tiny=False) is None
    assert painted_by(large, "mosaic") is None
    assert painted_by(small, "mosaic", tiny=False, name="generator", generator="watercolor") == "watercolor"
    assert painted_by(large, "watercolor", name="expert") is None
    for chosen in ({"strength": 0.5}, {"steps": 3}, {"cfg": 2.0}):
        assert painted_by(large, "watercolor", **chosen) is None


def test_a_generator_is_not_told_what_it_cannot_follow(tmp_path, capsys):
    source = picture(tmp_path / "photo.png", (150, 150))
    code, made = stylized(tmp_path, source, "--whole", "--generator", "watercolor", "--strength", "0.5")
    assert (code, made) == (2, None)
    assert "--generator: got it with --strength" in capsys.readouterr().err
