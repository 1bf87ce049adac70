"""`regionstyle make pairs` and `regionstyle train expert`, from pictures to a file: made, refused, gone on with."""

import json

import numpy as np
import pytest
import torch
from family_text import save_family_folder
from pair_files import write_pairs
from PIL import Image

from regionstyle.nodes.app import pairs as use_case
from regionstyle.nodes.app.cli import expert_commands
from regionstyle.nodes.app.cli import main as cli
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.training import run as loop
from regionstyle.nodes.engine.training.state import read_state
from regionstyle.nodes.sampler.training.manifest import read_manifest


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def teach(manifest, output, *more):
    common = ["--steps", "2", "--batch", "2", "--rank", "2", "--resolution", "64", "--device", "cpu"]
    return ["train", "expert", "--pairs", str(manifest), "-o", str(output), *common, *more]


def pairs(output, *more):
    return ["make", "pairs", "-o", str(output), "--style", "mosaic", "--device", "cpu", *more]


def test_pairs_become_a_file_with_previews_and_curve(manifest, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "PREVIEW_STEPS", 2)
    output = tmp_path / "new" / "my-mosaic.safetensors"
    more = ["--preview-every", "1", "--checkpointing", "--precision", "bfloat16", "--background", "2"]
    more += ["--validation", "1"]
    assert cli.main(teach(manifest, output, *more)) == 0
    expert = load_expert(output)
    assert (expert.name, expert.style) == ("my-mosaic", "mosaic")
    assert all(layer.up.any() and layer.rank == 2 for layer in expert.layers.values())
    made = sorted(file.name for file in (tmp_path / "new" / "my-mosaic").iterdir())
    assert made == ["loss.png", "step-000001.png", "step-000002.png", "validation.csv"]
    head, *rows = (tmp_path / "new" / "my-mosaic" / "validation.csv").read_text().splitlines()
    assert (head, [row.split(",")[0] for row in rows]) == ("steps,loss", ["0", "1", "2"])
    said = capsys.readouterr()
    assert str(output) in said.out
    assert "loss on held-out pairs:" in said.err
    assert read_state(tmp_path / "new" / "my-mosaic.train.pt")["done"] == 2
    assert cli.main(teach(manifest, output, *more, "--steps", "3", "--resume")) == 0
    assert read_state(tmp_path / "new" / "my-mosaic.train.pt")["done"] == 3
    other = [*more, "--precision", "float32", "--steps", "3", "--resume"]
    assert cli.main(teach(manifest, output, *other)) == 2
    assert "precision bfloat16" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_folder_of_another_class_is_taught(manifest, tmp_path, family, capsys):
    """In bfloat16 with checkpointing; FLUX is shown the picture before as well."""
    folder, output = save_family_folder(family, tmp_path / family), tmp_path / "x.safetensors"
    more = ["--model", str(folder), "--precision", "bfloat16", "--checkpointing", "--preview-every", "2"]
    # the small T5's vocabulary has none of the words
    shown = ["--source", "shown", "--focus", "0", "--cover", "0", "--validation", "1"] if family == "flux" else []
    assert cli.main(teach(manifest, output, *more, *shown)) == 0, capsys.readouterr().err
    expert = load_expert(output)
    assert any(layer.up.any() for layer in expert.layers.values())
    assert all("transformer_blocks" in path for path in expert.layers)
    if family == "sd3":
        assert cli.main(teach(manifest, tmp_path / "y.safetensors", *more, "--source", "shown")) == 2
        assert "FLUX class (Kontext)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["-o", "x.pt"], ".safetensors"),
        (["--pairs", "nowhere.json"], "no file nowhere.json"),
        (["--root", "nowhere"], "files that are not there"),
        (["--model", "nowhere"], "--model"),
        (["--resolution", "60"], "multiple of 8"),
        (["--resume"], "no file"),
        (["--preset", "published", "--kappa", "3"], "kappa"),
        (["--validation", "3"], "validation: got 3 of 3 different pairs"),
        (["--validation-pairs", "nowhere.json"], "no file nowhere.json"),
        (["--accelerate"], "--device"),
    ],
)
def test_wrong_input_is_one_line(manifest, tmp_path, capsys, more, part):
    assert cli.main(teach(manifest, tmp_path / "a.safetensors", *more)) == 2
    (text,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("regionstyle:")]
    assert part in text
    assert not (tmp_path / "a.safetensors").exists()


def test_scenes_become_exact_pairs_and_are_gone_on_with(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "pairs"
    assert cli.main(pairs(folder, "--scenes", "2", "--exact")) == 0
    assert "2 pairs, 2 of them new" in capsys.readouterr().out
    painted = []
    filtered = use_case._filtered
    monkeypatch.setattr(use_case, "_filtered", lambda style: lambda image: painted.append(1) or filtered(style)(image))
    (folder / "styled" / "00001-1.png").unlink()
    assert cli.main(pairs(folder, "--scenes", "3", "--exact")) == 0
    assert "3 pairs, 2 of them new" in capsys.readouterr().out
    assert len(painted) == 2
    for pair in read_manifest(folder / "pairs.json"):
        after, before, mask = pair.styled(), pair.source(), pair.things[0].mask()
        assert torch.equal(after[:, mask == 0], before[:, mask == 0])
        assert (after - before)[:, mask == 1].abs().mean() > 0.02
        assert pair.prompt == f"a {pair.things[0].phrase} in mosaic style"
    assert cli.main(pairs(folder, "--scenes", "3", "--exact", "--seed", "5")) == 2
    assert "begun with other settings" in capsys.readouterr().err


def test_an_expert_paints_pictures_through_masks(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "images" / "a.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "mask_a_old house.png")
    Image.fromarray(mask * 0).save(tmp_path / "masks" / "mask_a_tree.png")
    given = ["--images", str(tmp_path / "images"), "--masks", str(tmp_path / "masks"), "--steps", "1"]
    assert cli.main(pairs(tmp_path / "out", *given, "--prompt", "make the {thing} {style} style")) == 1
    assert "'tree': no such thing" in capsys.readouterr().err
    (record,) = json.loads((tmp_path / "out" / "pairs.json").read_text())
    assert record["objects"] == {"old house": "mosaic"}
    assert record["prompt"] == "make the old house mosaic style"
    styled = np.array(Image.open(tmp_path / "out" / record["image_path"]))
    assert np.array_equal(styled[mask == 0], picture[mask == 0])
    assert not np.array_equal(styled, picture)


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--scenes", "1", "--prompt", "a {thing}"], "--prompt"),
        (["--scenes", "1", "--prompt", "a {thing} {style} {more}"], "--prompt"),
        (["--scenes", "1", "--style", "gothic", "--exact"], "--exact"),
        (["--scenes", "1", "--masks", "x"], "--scenes"),
        (["--images", "nowhere"], "neither --masks nor --find"),
        (["--images", "nowhere", "--find", "star"], "no such folder"),
    ],
)
def test_wrong_pairs_are_one_line(tmp_path, capsys, more, part):
    assert cli.main(pairs(tmp_path / "out", *more)) == 2
    (text,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("regionstyle:")]
    assert part in text


def test_the_prompt_of_pairs_is_said_once():
    assert expert_commands.PROMPT == use_case.PROMPT
