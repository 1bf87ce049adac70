"""A hub on this machine, and a catalogue of small files on it."""

import hashlib
import json

import pytest
from hub_server import SAM, WEIGHTS, Hub, only_this_machine


@pytest.fixture(autouse=True)
def this_machine_only(monkeypatch):
    """No test here reaches a registry: names and addresses of other machines are refused."""
    only_this_machine(monkeypatch)


@pytest.fixture
def hub(monkeypatch):
    """The hub, with one repository `team/finder`, one that is gated, and a plain file; HF_ENDPOINT leads to it."""
    hub = Hub(
        repositories={
            "team/finder": {
                "config.json": b'{"model_type": "finder"}',
                "model.safetensors": WEIGHTS,
                "README.md": b"#",
            },
            "team/gated": {"model.safetensors": WEIGHTS},
        },
        plain={"sam/sam_vit_b.pth": SAM},
        gated={"team/gated"},
    )
    hub.start()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "COMFYUI_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", "/nowhere")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between huggingface_hub's tries
    # Bytes that are written at once, 10 MB: what is cut is taken up from the last whole piece.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    yield hub
    hub.stop()


def part(**options) -> dict:
    return {"folder": "grounding_dino/finder", "files": ["config.json", "*.safetensors"], **options}


def entry(name: str, *parts: dict, **options) -> dict:
    return {"name": name, "title": f"{name} to test with", "licence": "MIT", "parts": list(parts), **options}


@pytest.fixture
def catalogue(hub, tmp_path, monkeypatch):
    """A catalogue in place of the one that ships: finder, sam, gated, and the set `both`."""
    known = {"sam_vit_b.pth": {"size": len(SAM), "sha256": hashlib.sha256(SAM).hexdigest()}}
    content = {
        "sets": {"both": {"title": "two of them", "comfyui": ["finder", "sam"], "elsewhere": ["finder", "sam"]}},
        "models": [
            entry("finder", part(hub="team/finder")),
            entry("sam", part(url=f"{hub.url}/sam", folder="sams", files=["sam_vit_b.pth"], known=known)),
            entry("gated", part(hub="team/gated", files=["model.safetensors"]), gated=True),
            entry("gone", part(hub="team/gone")),
            entry("moved", part(hub="team/finder", files=["other.bin"])),
        ],
    }  # fmt: skip
    file = tmp_path / "catalogue.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr("regionstyle.nodes.app.downloads.catalogue.FILE", file)
    return file
