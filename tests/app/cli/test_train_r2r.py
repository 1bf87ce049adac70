"""`regionstyle train r2r-vae | r2r-unet | r2r-controller`, one after the other in one folder."""

import pytest
import torch
from r2r_networks import save_harmony_data

from regionstyle.nodes.app.cli import main as cli
from regionstyle.nodes.harmonizer.r2r.architecture import TINY
from regionstyle.nodes.harmonizer.r2r.files import load_r2r


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_harmony_data(save_harmony_data(tmp_path_factory.mktemp("data")), count=2, split="test")


def line(stage, data, output, *more):
    common = ["--size", "tiny", "--steps", "1", "--batch", "1", "--accumulate", "1", "--resolution", "64"]
    return ["train", f"r2r-{stage}", "--data", str(data), "-o", str(output), *common, "--device", "cpu", *more]


@pytest.mark.slow
def test_the_stages_build_one_folder(data, tmp_path, capsys):
    output = tmp_path / "r2r"
    for stage in ("vae", "unet", "controller"):
        assert cli.main(line(stage, data, output)) == 0
    assert "tiny world classifier-tiny, in the place of VGG16" in capsys.readouterr().err
    networks = load_r2r(output)
    assert networks.architecture == TINY
    assert networks.controller is not None
    grids = sorted(file.name for file in (output / "grids").iterdir())
    assert grids == [f"{stage}-{kind}.png" for stage in ("controller", "unet", "vae") for kind in ("000001", "loss")]
    assert not list(output.glob("*.pt"))
    assert not list(output.glob("*.lock"))
    before = networks.vae.decoder.conv_in.weight.clone()
    assert cli.main(line("vae", data, output, "--lr", "0.01")) == 0, "a finished one is trained on"
    assert not torch.equal(load_r2r(output).vae.decoder.conv_in.weight, before)


@pytest.mark.parametrize(
    ("stage", "more", "part"),
    [
        ("unet", [], "no Clear-VAE"),
        ("vae", ["--data", "nowhere"], "no such folder"),
        ("vae", ["--resolution", "100"], "resolution"),
        ("vae", ["--resume"], "no unfinished"),
        ("vae", ["--vgg", "nowhere.pth"], "nowhere.pth"),
        ("vae", ["--size", "sd"], "no Clear-VAE"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(data, tmp_path, capsys, stage, more, part):
    assert cli.main(line(stage, data, tmp_path / "out", *more)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert part.removeprefix("no unfinished") in said
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True
