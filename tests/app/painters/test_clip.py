"""The painter "clip" with the tiny networks, and with CLIP folders and a VGG-19 file of the real sizes."""

import pytest
import torch
from clip_folder import write_clip_folder

import regionstyle
from regionstyle.nodes.app.edit import EditSettings, edit
from regionstyle.nodes.app.local_clip import local_clip_networks, tiny_local_clip
from regionstyle.nodes.app.local_model import TINY, open_model
from regionstyle.nodes.app.painters.registry import PainterContext, painter_named
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.public_networks import VGG19_FILE
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.local_clip.settings import LocalClipSettings

QUICK = LocalClipSettings(iterations=1, patches=2)


@pytest.fixture(scope="module")
def model():
    return open_model(TINY, LocalHost("cpu"))


def star(style):
    return Region.of_box("star", (30, 30, 90, 90), (128, 128), style=style)


@pytest.mark.parametrize("optimise", ["network", "latent"])
def test_it_paints_inside_its_region_only_without_an_expert(model, optimise):
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    settings = LocalClipSettings(iterations=1, patches=2, optimise=optimise)
    painter = painter_named("clip", PainterContext(model, EditSettings(seed=3), local_clip=settings))
    with model.predictor.loaded():
        made = edit(image, [star("posterised")], painter, EditSettings(seed=3, feather=0))
    outside = (made.mask[0] == 0).expand_as(image)
    assert (~outside).float().mean() == pytest.approx((60 / 128) ** 2)
    assert torch.equal(made.image[outside], image[outside])
    assert not torch.equal(made.image[~outside], image[~outside])


def test_the_tiny_clip_has_its_own_preset_unless_another_is_chosen(model, tmp_path):
    from regionstyle.nodes.app.cli.main import build_parser
    from regionstyle.nodes.app.cli.stylize import local_clip_settings

    def preset(*options):
        line = ["stylize", "a.png", "neon", "-o", "b.png", "--method", "clip", *options]
        return local_clip_settings(build_parser().parse_args(line)).preset.name

    def own(clip):
        return painter_named("clip", PainterContext(model, EditSettings(), clip=clip)).settings.preset.name

    assert own(None) == "improved-tiny"
    assert own(tmp_path) == "improved"
    assert preset("--iterations", "3") == "improved-tiny"
    assert preset("--preset", "improved") == "improved"
    assert preset("--iterations", "3", "--clip", "folder") == "improved"


def test_the_command_line_has_every_setting_of_the_node():
    from regionstyle.nodes.app.cli.main import build_parser
    from regionstyle.nodes.app.cli.stylize import local_clip_settings

    def read(*options):
        line = ["stylize", "a.png", "neon", "-o", "b.png", "--method", "clip", *options]
        return local_clip_settings(build_parser().parse_args(line))

    given = {
        "--iterations": 7, "--optimise": "pixels", "--order": "together", "--start": "noise", "--direction-weight": 1.5,
        "--patch-weight": 2.5, "--content-weight": 3.5, "--variation-weight": 0.5, "--threshold": 0.3, "--rate": 0.25,
        "--patches": 9, "--patch": 33, "--scales": "three", "--size": 64, "--margin": 0.75, "--largest-scale": 8.0,
        "--feather": -3, "--patience": 5, "--preview-every": 6, "--preset": "paper", "--blending": "poisson",
    }  # fmt: skip
    made = read(*(f"{flag}={value}" for flag, value in given.items()), "--half", "--no-keep-best")
    values = {**vars(made), "preset": made.preset.name}
    assert {flag: values.pop(flag[2:].replace("-", "_")) for flag in given} == given
    assert values == {"half": True, "keep_best": False, "seed": 0, "next_iterations": 0}
    assert read() is None


def test_it_refuses_before_it_paints(model):
    painter = painter_named("clip", PainterContext(model, EditSettings(), local_clip=QUICK))
    with pytest.raises(RegionStyleError, match="clip with --steps"):
        painter.check(star("neon"), EditSettings(steps=4))
    with pytest.raises(RegionStyleError, match="clip with --detail"):
        painter.check(star("neon"), EditSettings(detail="full"))
    painter.check(star("neon"), EditSettings(detail="auto"))
    with pytest.raises(RegionStyleError, match=r"style: got cubism.*tiny CLIP was taught: .*neon"):
        painter.check(star("cubism"), EditSettings())
    with pytest.raises(RegionStyleError, match="style: got ''"):
        painter.check(star(""), EditSettings())


def test_what_the_result_lacks_is_said(model):
    image = torch.rand(1, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    settings = LocalClipSettings(iterations=1, patches=2, optimise="pixels")
    painter = painter_named("clip", PainterContext(model, EditSettings(), local_clip=settings))
    whole = Region.of_box("whole picture", (0, 0, 300, 300), (300, 300), style="neon")
    made = edit(image, [whole], painter, EditSettings())
    assert made.notes == (
        "whole picture: drawn at 128 pixels and enlarged 2.3 times: fine detail of the style is lost. Set size higher.",
    )
    assert made.notes[0] in made.warning(image)


def test_the_order_is_followed(model):
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    asked = [star("neon"), Region.of_box("ring", (60, 60, 120, 120), (128, 128), style="mosaic")]

    def made(order):
        settings = LocalClipSettings(iterations=1, patches=2, optimise="pixels", order=order)
        painter = painter_named("clip", PainterContext(model, EditSettings(), local_clip=settings))
        return edit(image, asked, painter, EditSettings())

    apart, together = made("in turn"), made("together")
    assert torch.equal(apart.mask, together.mask)
    assert not torch.equal(apart.image, together.image)


def test_the_tiny_networks_say_so_and_are_frozen():
    networks = tiny_local_clip()
    assert [part.endswith("-tiny") for part in networks.name.split(", ")] == [True, True]
    assert not any(p.requires_grad for module in networks.modules for p in module.parameters())


def test_the_tiny_content_is_what_the_classifier_gives():
    content = tiny_local_clip().content
    images = torch.rand(1, 3, 128, 128)
    (classifier,) = content.modules
    for got, expected in zip(content.maps(images, rectified=True), classifier.features(images)[-2:], strict=True):
        torch.testing.assert_close(got, expected)
    plain, rectified = (content.maps(images, rectified=which) for which in (False, True))
    assert plain[-1].min() < 0 <= rectified[-1].min()


def test_a_folder_without_its_files_names_them(tmp_path):
    with pytest.raises(RegionStyleError, match=r"CLIP folder: got no config.json and no model.safetensors"):
        local_clip_networks(tmp_path)


BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
SIZES = {
    "clip-vit-base-patch32": (
        BASE,
        32,
        {**BASE, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
        512,
    ),
    "clip-vit-large-patch14": (LARGE, 14, BASE, 768),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_a_public_clip_of_the_real_size_from_its_folder(name, tmp_path):
    """ViT-B/32 and ViT-L/14 as transformers keeps them, VGG-19 as torchvision does, with random weights."""
    from torchvision.models import vgg19

    vision, patch, text, projection = SIZES[name]
    folder = write_clip_folder(
        tmp_path / name, {**vision, "image_size": 224, "patch_size": patch},
        {**text, "max_position_embeddings": 77}, projection, dtype=torch.float16,
    )  # fmt: skip
    torch.save(vgg19(weights=None).half().state_dict(), tmp_path / VGG19_FILE)
    pixels = torch.rand(96, 128, 3).numpy()
    settings = {"iterations": 1, "patches": 2, "optimise": "pixels"}
    made = regionstyle.stylize(
        pixels, "make it an oil painting", box=(20, 20, 90, 80), method="clip", clip=folder, clip_settings=settings,
        device="cpu",
    )  # fmt: skip
    outside = made.mask == 0
    assert (made.image[outside] == pixels[outside]).all()
    assert (made.image[~outside] != pixels[~outside]).any()
    (folder / "model.safetensors").unlink()
    with pytest.raises(RegionStyleError, match=r"CLIP folder: got no model.safetensors"):
        local_clip_networks(folder)
