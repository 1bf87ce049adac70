"""The README's way from nothing to "make the dog watercolor": every command as it stands there, one after the other.

In place of the public files come small networks of the same layouts with random weights, from a server on this machine
that speaks the hub's protocol: what is proved is that names, places, options and files fit together.
"""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from family_text import save_family_folder
from hub_server import Hub, only_this_machine
from PIL import Image
from tiny_networks import save_tiny_dino

from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.app.downloads import catalogue as catalogues
from regionstyle.nodes.tinyworld.tiny_sam import load_tiny_sam

ROOT = Path(__file__).resolve().parents[2]
FEW = {"train style": ["--steps", "2", "--device", "cpu"], "stylize": ["--steps", "2", "--device", "cpu"],
       "find": ["--device", "cpu"]}  # fmt: skip


def commands() -> list[list[str]]:
    """The lines of the block, without what stands after a # in them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- photograph commands -->\n```\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    return [shlex.split(line, comments=True) for line in block[1].splitlines()]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stable_diffusion(folder: Path) -> dict[str, bytes]:
    """A model of the SD1.5 class, its weights named as the published half precision ones are."""
    made = files_of(save_family_folder("sd", folder))
    half = {name.replace(".safetensors", ".fp16.safetensors"): content for name, content in made.items()}
    return {"model_index.json": b"{}", "README.md": b"#", **half}


def detector(folder: Path) -> dict[str, bytes]:
    made = files_of(save_tiny_dino(folder))
    made.setdefault("special_tokens_map.json", b"{}")
    made.setdefault("preprocessor_config.json", made.get("processor_config.json", b"{}"))
    return made


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The three public sources of the set `photo`, and the shipped catalogue with this server's addresses."""
    torch.save(load_tiny_sam().state_dict(), tmp_path / "sam.pth")
    hub = Hub(
        repositories={
            "IDEA-Research/grounding-dino-tiny": detector(tmp_path / "dino"),
            "stable-diffusion-v1-5/stable-diffusion-v1-5": stable_diffusion(tmp_path / "sd"),
        },
        plain={"segment_anything/sam_vit_b_01ec64.pth": (tmp_path / "sam.pth").read_bytes()},
    )
    hub.start()
    only_this_machine(monkeypatch)
    content = json.loads(catalogues.FILE.read_text(encoding="utf-8"))
    for part in (part for model in content["models"] for part in model["parts"]):
        part.pop("known", None)  # of the public files
        if "url" in part:
            part["url"] = part["url"].replace("https://dl.fbaipublicfiles.com", hub.url)
    (tmp_path / "catalogue.json").write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(catalogues, "FILE", tmp_path / "catalogue.json")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "COMFYUI_PATH"):
        monkeypatch.delenv(name, raising=False)
    yield hub
    hub.stop()


class Yes:
    """Somebody at a terminal who agrees."""

    isatty = staticmethod(lambda: True)
    readline = staticmethod(lambda: "y\n")


def test_they_are_five_and_begin_with_nothing():
    first, *others = commands()
    assert len(others) == 4
    assert first == ["python3", "-m", "venv", ".venv", "&&", ".venv/bin/pip", "install", "-q", ".[photo]"]
    assert "photo = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert {words[0] for words in others} == {".venv/bin/regionstyle"}
    assert [words[1] for words in others] == ["download", "find", "train", "stylize"]


@pytest.mark.slow
def test_every_one_runs_and_finds_what_the_ones_before_left(hub, tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(0)
    desk = tmp_path / "desk"
    (desk / "paintings").mkdir(parents=True)
    for name in ("photo.jpg", "paintings/one.png", "paintings/two.png", "paintings/three.png"):
        Image.fromarray(random.integers(0, 255, (160, 210, 3), dtype=np.uint8)).save(desk / name)
    monkeypatch.chdir(desk)
    monkeypatch.setattr("sys.stdin", Yes)
    for words in commands()[1:]:
        name = "train style" if words[1] == "train" else words[1]
        code = main([*words[1:], *FEW.get(name, [])])
        told = capsys.readouterr()
        assert code == 0, (name, told.err)
        if name == "download":
            for file in re.findall(r"^\S+: (\S+)$", told.out, re.MULTILINE):
                assert Path(file).exists(), file
    assert list((desk / "found").iterdir())
    assert (desk / "watercolor.safetensors").is_file()
    before, after = (np.asarray(Image.open(desk / name).convert("RGB")) for name in ("photo.jpg", "out.png"))
    assert before.shape == after.shape
    assert (before != after).any()
