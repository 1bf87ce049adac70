"""What counts as there, what comes in which order, and faults of the disk, against a hub on this machine."""

import json
import os
from pathlib import Path

import pytest
from hub_server import SAM, WEIGHTS

from regionstyle.nodes.app.downloads import catalogue as catalogues
from regionstyle.nodes.app.downloads.catalogue import Part, PublicModel, load_catalogue
from regionstyle.nodes.app.downloads.download import plan, present, run
from regionstyle.nodes.app.downloads.sources import remote_files
from regionstyle.nodes.app.downloads.transfer import part_of
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.public_networks import VGG19_FILE


def model_of(*files, folder="LLM/one", **source):
    return PublicModel("one", "to test with", "MIT", (Part(folder, files, **source),))


def test_patterns_and_shards_count(tmp_path):
    model, folder = model_of("*.json", "*.jinja", "*.safetensors", hub="team/one"), tmp_path / "LLM" / "one"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert not present(model, tmp_path), "no weights"
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1-of-2.safetensors").touch()
    assert not present(model, tmp_path), "a shard lacks"
    (folder / "model-2-of-2.safetensors").touch()
    assert present(model, tmp_path)
    (folder / "model.safetensors.index.json").write_text("{")
    assert not present(model, tmp_path), "an index that cannot be read"


def test_a_stripped_pattern_is_looked_for_where_it_lies(tmp_path):
    model = model_of("deep/unet/*", hub="team/one", strip="deep/")
    (tmp_path / "LLM" / "one" / "unet").mkdir(parents=True)
    assert not present(model, tmp_path)
    (tmp_path / "LLM" / "one" / "unet" / "config.json").touch()
    assert present(model, tmp_path)


def test_what_a_folder_is_known_by_comes_last(hub):
    names = ("model_index.json", "unet/config.json", "unet/model.safetensors")
    hub.repositories["team/pipe"] = dict.fromkeys(names, b"{}")
    files = remote_files(model_of(*names, hub="team/pipe"))
    assert [file.place.name for file in files] == ["model.safetensors", "config.json", "model_index.json"]


def test_a_file_of_unknown_size_comes_anew(hub, tmp_path):
    """What is left of an earlier run may be whole, or another file."""
    hub.unsized.add("sam/sam_vit_b.pth")
    made = plan([model_of("sam_vit_b.pth", url=f"{hub.url}/sam")], tmp_path)
    assert made.unknown == 1
    part = part_of(tmp_path, made.wanted[0].file)
    part.parent.mkdir()
    part.write_bytes(b"x" * 100)
    assert run(made)[0].read_bytes() == SAM
    assert hub.bodies("sam_vit_b.pth") == [None]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk without room is known on Linux only")
@pytest.mark.parametrize(("target", "said"), [("/dev/full", "No space left on device"), (None, "Is a directory")])
def test_a_fault_of_the_disk_is_none_of_the_network(hub, tmp_path, target, said):
    made = plan([model_of("model.safetensors", hub="team/finder")], tmp_path)
    part = part_of(tmp_path, made.wanted[0].file)
    part.parent.mkdir()
    part.mkdir() if target is None else part.symlink_to(target)
    with pytest.raises(RegionStyleError, match=f"{said}. Make room, or choose another place with --folder"):
        run(made)
    assert len(WEIGHTS) == made.missing


def test_an_address_names_its_revision_as_one_word():
    part = Part("x", ("model.safetensors",), hub="openai/clip", revision="refs/pr/15")
    assert part.address("model.safetensors").endswith("/openai/clip/resolve/refs%2Fpr%2F15/model.safetensors")


def test_local_clip_finds_both_networks_where_they_are_put():
    ours = load_catalogue(Path(catalogues.__file__).with_name("catalogue.json"))
    for comfyui in (True, False):
        clip, vgg = ours.choose(["local-clip"], comfyui)
        place = vgg.parts[0].place(vgg.parts[0].files[0])
        assert place.name == VGG19_FILE
        assert {Path(part.folder).parent for part in clip.parts} == {Path(place.parent)}
