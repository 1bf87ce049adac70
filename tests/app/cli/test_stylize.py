"""`regionstyle stylize` on pictures of the tiny world: several things, and what it says when nothing was changed."""

import signal

import numpy as np
import pytest
from PIL import Image

from regionstyle.nodes.app.cli.main import main


@pytest.fixture
def scene_file(tmp_path):
    from regionstyle.nodes.tinyworld.world import scene

    made = scene(10, split="held-out", count=2)
    path = tmp_path / "scene.png"
    pixels = np.round(made.image.transpose(1, 2, 0) if made.image.shape[0] == 3 else made.image, 6)
    Image.fromarray((pixels * 255).astype(np.uint8)).save(path)
    return path, [thing.phrase for thing in made.objects]


@pytest.mark.slow
def test_stylize_restyles_several_things_of_one_sentence(scene_file, tmp_path):
    path, (first, second) = scene_file
    outputs = {}
    for name, prompt in (
        ("both", f"the {first} in mosaic, the {second} like pixel art"),
        ("first", f"make the {first} mosaic"),
    ):
        out = tmp_path / f"{name}.png"
        assert main(["stylize", str(path), prompt, "-o", str(out), "--steps", "2", "--device", "cpu"]) == 0
        outputs[name] = np.asarray(Image.open(out).convert("RGB"))
    before = np.asarray(Image.open(path))
    changed = {name: (after != before).any(-1) for name, after in outputs.items()}
    assert 0 < changed["first"].mean() < changed["both"].mean() < 0.9


def test_a_given_region_takes_one_thing(scene_file, tmp_path, capsys):
    prompt = "make the star mosaic and the moon neon"
    assert (
        main(["stylize", str(scene_file[0]), prompt, "-o", str(tmp_path / "o.png"), "--whole", "--device", "cpu"]) == 2
    )
    assert "several things" in capsys.readouterr().err


def stylized(path, out, prompt, *more):
    return main(["stylize", str(path), prompt, "-o", str(out), "--steps", "1", "--device", "cpu", *more])


def test_an_empty_mask_is_said_and_with_strict_writes_nothing(scene_file, tmp_path, capsys):
    mask, out = tmp_path / "mask.png", tmp_path / "o.png"
    with Image.open(scene_file[0]) as scene:
        Image.new("L", scene.size, 0).save(mask)
    assert stylized(scene_file[0], out, "make it mosaic", "--mask", str(mask), "--strict") == 3
    assert "empty mask, unchanged: image 0" in capsys.readouterr().err
    assert not out.exists()
    assert stylized(scene_file[0], out, "make it mosaic", "--mask", str(mask)) == 0
    assert "empty mask, unchanged: image 0" in capsys.readouterr().err
    assert (np.asarray(Image.open(out)) == np.asarray(Image.open(scene_file[0]))).all()


@pytest.mark.slow
@pytest.mark.parametrize(("more", "code"), [([], 2), (["--strict"], 3)])
def test_a_thing_that_is_not_there(tmp_path, capsys, more, code):
    """A picture of one colour: whatever is looked for is not in it."""
    path, out = tmp_path / "grey.png", tmp_path / "o.png"
    Image.new("RGB", (128, 128), (120, 120, 120)).save(path)
    assert stylized(path, out, "make the second star from the left neon", *more) == code
    assert "star" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("value", ["-1", "nan", "101", "much"])
def test_a_guidance_that_is_none(scene_file, tmp_path, value, capsys):
    with pytest.raises(SystemExit) as stop:
        stylized(scene_file[0], tmp_path / "o.png", "make it mosaic", "--whole", f"--cfg={value}")
    assert stop.value.code == 2
    assert "from 0 to 100" in capsys.readouterr().err


def test_guidance_changes_the_picture(scene_file, tmp_path):
    pictures = []
    for cfg in ("1", "6"):
        out = tmp_path / f"{cfg}.png"
        assert stylized(scene_file[0], out, "make it mosaic", "--box", "20,20,90,90", "--cfg", cfg) == 0
        pictures.append(np.asarray(Image.open(out)))
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[0][100:] == pictures[1][100:]).all()


def test_an_expert_file_is_checked_as_in_comfyui(tmp_path):
    """One that claims to be a published expert and is not whole is refused on the command line too."""
    import torch

    from regionstyle.nodes.app import models
    from regionstyle.nodes.engine.errors import RegionStyleError
    from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
    from regionstyle.nodes.engine.lora.save import save_expert
    from regionstyle.nodes.router.published_experts import published_layers

    layers = {path: LoraLayer(torch.zeros(4, 8), torch.zeros(8, 4)) for path in published_layers()[:5]}
    path = tmp_path / "pixel-art.safetensors"
    save_expert(Expert("pixel-art", layers), path, layout="diffusers")
    with pytest.raises(RegionStyleError, match="as RegionRoute published it"):
        models._stack(torch.nn.Module(), path)


def test_any_style_by_clip_without_an_expert(scene_file, tmp_path, capsys):
    """The tiny CLIP knows 'posterised', of which there is no expert."""
    path, (phrase, _) = scene_file
    out, ask = tmp_path / "o.png", ["-o", str(tmp_path / "o.png"), "--device", "cpu", "--box", "20,20,60,70"]
    arguments = ["stylize", str(path), f"make the {phrase} posterised", *ask]
    assert main(arguments) == 2
    assert "posterised" in capsys.readouterr().err
    assert main([*arguments, "--method", "clip", "--iterations", "1", "--optimise", "pixels"]) == 0
    changed = (np.asarray(Image.open(out)) != np.asarray(Image.open(path))).any(-1)
    assert changed[20:70, 20:60].mean() > 0.5
    assert not changed[:16].any()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "clip", "--generator", "neon"], "'clip' with --generator"),
        (["--iterations", "3"], "'expert' with --iterations"),
        (["--no-keep-best", "--margin", "1"], "'expert' with --margin and --no-keep-best"),
        (["--method", "edit", "--feather", "1"], "'edit' with --feather"),
        (["--start-image", "START"], "'expert' with --start-image"),
        (
            ["--method", "clip", "--start-image", "START", "--start", "noise"],
            "--start-image: got it with --start noise",
        ),
        (["--method", "clip", "--start-image", "nowhere.png"], "--start-image: got 'nowhere.png'"),
        (["--method", "clip", "--patience", "3", "--threshold", "0"], "patience: got 3"),
        (["--clip", "nowhere"], "'expert' with --clip"),
        (["--method", "clip", "--steps", "3"], "clip with --steps"),
        (["--method", "clip", "--detail", "full"], "clip with --detail"),
        (["--method", "clip", "--content-weight", "-0.5"], "content_weight: got -0.5"),
        (["--method", "clip", "--size", "8"], "size: got 8, expected 0, or 16"),
        (["--method", "clip", "--model", "nowhere"], "--model: got 'nowhere', expected it with --optimise latent"),
        (["--method", "clip", "--clip", "nowhere"], "CLIP folder: got no config.json"),
        (["--composite"], "'expert' with --composite"),
        (["--sms-iterations", "3"], "'expert' with --sms-iterations"),
        (["--method", "clip", "--sms-no-relevance"], "'clip' with --sms-no-relevance, expected it without, or 'sms'"),
        (["--method", "sms", "--iterations", "3"], "it with --method sms, expected --sms-iterations"),
        (["--method", "sms", "--optimise", "pixels"], "'sms' with --optimise, expected it without, or 'clip'"),
        (["--method", "sms", "--generator", "neon"], "'sms' with --generator"),
        (["--method", "sms", "--steps", "3"], "sms with --steps"),
        (["--method", "sms", "--strength", "0.5"], "sms with --strength"),
        (["--method", "sms", "--model", "nowhere"], "--expert: got nothing with --model nowhere"),
        (["--method", "edit"], "'edit' with --mask, --box or --whole"),
        (["--method", "edit", "--clip", "nowhere"], "'edit' with --clip"),
        (["--method", "edit", "--generator", "neon"], "'edit' with --generator"),
        (["--method", "edit", "--model", "nowhere"], "'edit' with --model nowhere"),
    ],
)
def test_options_of_the_other_method_are_refused(scene_file, tmp_path, capsys, more, message):
    prompt, out = f"make the {scene_file[1][0]} neon", str(tmp_path / "o.png")
    ask = ["stylize", str(scene_file[0]), prompt, "-o", out, "--device", "cpu", "--box", "20,20,60,70"]
    assert main([*ask, *(str(scene_file[0]) if one == "START" else one for one in more)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("method", "option"), [("sms", "--strength=0.5"), ("clip", "--detail=full")])
def test_settings_of_redrawing_are_refused_before_the_thing_is_looked_for(tmp_path, capsys, method, option):
    Image.new("RGB", (128, 128)).save(tmp_path / "black.png")
    ask = ["stylize", str(tmp_path / "black.png"), "make the star neon", "-o", str(tmp_path / "o.png")]
    assert main([*ask, "--device", "cpu", "--method", method, option]) == 2
    assert f"{method} with {option.partition('=')[0]}" in capsys.readouterr().err


BY_CLIP = ("--device", "cpu", "--box", "20,20,60,70", "--method", "clip", "--optimise", "pixels", "--patches", "2")


def test_a_start_image_is_what_the_thing_is_at_first(scene_file, tmp_path, capsys):
    path, start, out = scene_file[0], tmp_path / "start.png", tmp_path / "o.png"
    ask = ["stylize", str(path), "neon", "-o", str(out), *BY_CLIP, "--start-image", str(start), "--iterations", "1"]
    Image.new("RGB", (128, 128), (10, 200, 90)).save(start)
    assert main([*ask, "--rate", "1e-9", "--feather", "0"]) == 0
    made, before = (np.asarray(Image.open(one).convert("RGB")).astype(int) for one in (out, path))
    assert abs(made[25:65, 25:55] - (10, 200, 90)).max() <= 1
    assert (made[:20] == before[:20]).all()
    Image.new("RGB", (96, 128)).save(start)
    assert main(ask) == 2
    assert "--start-image: got 96 x 128 pixels, expected 128 x 128 pixels" in capsys.readouterr().err


def test_ctrl_c_writes_the_best_so_far_and_says_so_once(scene_file, tmp_path, capsys, monkeypatch):
    """The signal comes with the third preview, which is written before the loop looks whether to go on."""
    from regionstyle.nodes.app.cli import stylize

    def save(frame, place):
        save_image(frame, place)
        if place.name == "step-000002.png":
            signal.raise_signal(signal.SIGINT)

    save_image, before = stylize.save_image, signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(stylize, "save_image", save)
    out = tmp_path / "o.png"
    ask = ["stylize", str(scene_file[0]), "neon", "-o", str(out), *BY_CLIP, "--preview-every", "1", "--iterations", "5"]
    assert main([*ask, "--no-keep-best"]) == 130
    assert not out.exists()
    assert "regionstyle: cancelled" in capsys.readouterr().err
    assert main([*ask, "--harmonize"]) == 130
    said = capsys.readouterr()
    assert said.err.count("cancelled") == said.err.count("cancelled after 2 of 5 iterations") == 1
    assert "not harmonised, since it was stopped" in said.err
    assert f"wrote {out}" in said.out
    assert (np.asarray(Image.open(out).convert("RGB")) != np.asarray(Image.open(scene_file[0]))).any()
    assert sorted(one.name for one in (tmp_path / "o").iterdir()) == [f"step-{step:06d}.png" for step in range(3)]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_it_is_harmonised_writes_what_was_restyled(scene_file, tmp_path, capsys, monkeypatch):
    from regionstyle.nodes.app import stylize

    def harmonised(*given):
        signal.raise_signal(signal.SIGINT)
        return harmonize(*given)

    harmonize, out = stylize.harmonize, tmp_path / "o.png"
    monkeypatch.setattr(stylize, "harmonize", harmonised)
    ask = ["stylize", str(scene_file[0]), "neon", "-o", str(out), *BY_CLIP, "--harmonize", "--iterations", "4"]
    ask += ["--preview-every", "2"]
    assert main([*ask, "--no-keep-best"]) == 130
    assert not out.exists()
    capsys.readouterr()
    assert main(ask) == 130
    assert "not harmonised, since it was stopped" in capsys.readouterr().err
    written = sorted(one.name for one in (tmp_path / "o").iterdir())
    assert written == ["step-000000.png", "step-000002.png"], "no frame of the strip's, and none of the harmoniser's"
    assert (np.asarray(Image.open(out).convert("RGB")) != np.asarray(Image.open(scene_file[0]))).any()


def test_ctrl_c_before_the_first_change_writes_nothing(scene_file, tmp_path, monkeypatch):
    """The best of one iteration is the picture it began with."""
    from regionstyle.nodes.app.cli import stylize

    def save(frame, place):
        if place.name == "step-000001.png":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(stylize, "save_image", save)
    out = tmp_path / "o.png"
    ask = ["stylize", str(scene_file[0]), "neon", "-o", str(out), *BY_CLIP, "--preview-every", "1", "--iterations", "5"]
    assert main(ask) == 130
    assert not out.exists()


@pytest.mark.parametrize("method", ["clip", "sms"])
def test_previews_of_one_region_do_not_overwrite_anothers(tmp_path, method):
    """SMS counts each region's iterations from 0; with detail "both" two sizes go on counting."""
    import torch

    from regionstyle.nodes.app.cli.main import build_parser
    from regionstyle.nodes.app.cli.stylize import _previews

    every, label = {"clip": ("--preview-every", "local CLIP style"), "sms": ("--sms-preview-every", "matching style")}[
        method
    ]
    line = ["stylize", "a.png", "neon", "-o", str(tmp_path / "o.png"), "--method", method]
    assert _previews(build_parser().parse_args(line)) is None
    shown = _previews(build_parser().parse_args([*line, every, "2"]))
    steps = range(9) if method == "clip" else (0, 1, 2, 2, 3, 4, 0, 1, 2, 3, 4)
    for step in steps:
        shown(label, step, torch.full((3, 4, 4), 0.5))
    shown("harmonising", 2, torch.full((3, 4, 4), 0.5))
    written = sorted(str(one.relative_to(tmp_path / "o")) for one in (tmp_path / "o").rglob("*.png"))
    names = [f"step-{step:06d}.png" for step in (0, 2, 4, 6, 8)]
    second = [f"region-2/{name}" for name in names[:3]]
    assert written == (names if method == "clip" else [*second, *names[:3]])


def by_sms(path, out, prompt, *more):
    few = ["--sms-iterations", "2", "--device", "cpu"]
    return main(["stylize", str(path), prompt, "-o", str(out), "--method", "sms", *few, *more])


def test_by_sms_a_given_region_alone_changes(scene_file, tmp_path, capsys):
    path, (phrase, _) = scene_file
    made = {}
    for name, more in (("one", []), ("other", ["--sms-rate", "0.3", "--sms-preset", "paper", "--sms-no-relevance"])):
        out = tmp_path / f"{name}.png"
        assert by_sms(path, out, f"make the {phrase} neon", "--box", "20,20,60,70", *more) == 0
        made[name] = np.asarray(Image.open(out))
    before = np.asarray(Image.open(path))
    changed = (made["one"] != before).any(-1)
    assert changed[20:70, 20:60].mean() > 0.5
    changed[16:74, :64] = False
    assert not changed.any()
    assert (made["one"] != made["other"]).any()
    nowhere = tmp_path / "n.png"
    assert by_sms(path, nowhere, "make it cubist", "--box", "20,20,60,70") == 2
    assert "cubist" in capsys.readouterr().err
    Image.new("L", Image.open(path).size, 0).save(tmp_path / "mask.png")
    assert by_sms(path, nowhere, "make it neon", "--mask", str(tmp_path / "mask.png"), "--strict") == 3
    assert "empty mask, unchanged: image 0" in capsys.readouterr().err
    assert not nowhere.exists()


@pytest.mark.slow
def test_by_sms_a_thing_that_is_not_there(tmp_path, capsys):
    path, out = tmp_path / "grey.png", tmp_path / "o.png"
    Image.new("RGB", (128, 128), (120, 120, 120)).save(path)
    assert by_sms(path, out, "make the second star from the left neon") == 2
    assert "star" in capsys.readouterr().err
    assert not out.exists()


def test_ctrl_c_writes_the_picture_of_sms_so_far(scene_file, tmp_path, capsys, monkeypatch):
    """The signal comes with a preview, which is written before the loop looks whether to go on."""
    from regionstyle.nodes.app.cli import stylize

    def save(frame, place):
        save_image(frame, place)
        if place.name == f"step-{at:06d}.png":
            signal.raise_signal(signal.SIGINT)

    save_image, before, out = stylize.save_image, signal.getsignal(signal.SIGINT), tmp_path / "o.png"
    monkeypatch.setattr(stylize, "save_image", save)
    few = ["--sms-iterations", "50", "--sms-preview-every", "1"]
    for at, said in ((0, "regionstyle: cancelled"), (2, "cancelled after 2 of 50 iterations: the picture so far")):
        assert by_sms(scene_file[0], out, "make it neon", "--box", "20,20,60,70", *few) == 130
        assert said in capsys.readouterr().err
        assert out.exists() == (at > 0)
    assert signal.getsignal(signal.SIGINT) is before


def test_editing_by_words(scene_file, tmp_path, capsys):
    """No region is given and none is kept, which is said; composited, the rest stays bit for bit."""
    path, (phrase, _) = scene_file
    out = tmp_path / "o.png"
    asked = ["stylize", str(path), f"make the {phrase} posterised", "-o", str(out), "--device", "cpu"]
    assert main([*asked, "--method", "edit", "--steps", "2"]) == 0
    assert "drawn anew" in capsys.readouterr().err
    before = np.asarray(Image.open(path))
    changed = (np.asarray(Image.open(out)) != before).any(-1)
    assert changed.mean() > 0.5
    assert main([*asked, "--method", "edit", "--steps", "2", "--composite"]) == 0
    assert "drawn anew" not in capsys.readouterr().err
    kept = (np.asarray(Image.open(out)) == before).all(-1)
    assert 0.3 < kept.mean() < 1


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("make the dragon mosaic", "the thing 'dragon', expected a shape"),
        ("make the leftmost star mosaic", "the thing 'leftmost star'"),
        ("make the star cubist", "cubist"),
        ("", "sentence: got ''"),
    ],
)
def test_words_that_editing_was_not_taught(scene_file, tmp_path, capsys, prompt, message):
    asked = ["stylize", str(scene_file[0]), prompt, "-o", str(tmp_path / "o.png"), "--method", "edit"]
    assert main([*asked, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err


def test_editing_by_words_wants_pictures_of_its_size_and_things_that_are_there(scene_file, tmp_path, capsys):
    path, present = scene_file
    large, out = tmp_path / "large.png", str(tmp_path / "o.png")
    Image.open(path).resize((256, 128)).save(large)
    arguments = ["-o", out, "--device", "cpu", "--method", "edit"]
    assert main(["stylize", str(large), "make the star neon", *arguments]) == 2
    assert "image: got 256 x 128 pixels, expected 128 x 128" in capsys.readouterr().err
    absent = next(shape for shape in ("ring", "heart", "cross") if not any(shape in phrase for phrase in present))
    assert main(["stylize", str(path), f"make the green {absent} neon", *arguments]) == 2
    assert f"green {absent}" in capsys.readouterr().err
