"""What `regionstyle download` places is what the loaders inside ComfyUI list, for every model of the catalogue.

The shipped catalogue is downloaded from a hub on this machine, whose files have the real names and a few bytes. Then
ComfyUI, started on that models folder, is asked for the choices of the nodes that load each kind.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from regionstyle.nodes.app.downloads import catalogue as catalogues
from regionstyle.nodes.app.downloads.catalogue import Part, PublicModel, load_catalogue
from regionstyle.nodes.app.downloads.download import plan, present, run

pytestmark = pytest.mark.slow

# Folder below models/ -> the inputs that list what lies there, and whether they list files or folders.
LOADERS = {
    "checkpoints": (("CheckpointLoaderSimple", "ckpt_name"),),
    "diffusers": (("DiffusersLoader", "model_path"),),
    "diffusion_models": (("UNETLoader", "unet_name"),),
    "text_encoders": (("DualCLIPLoader", "clip_name1"), ("DualCLIPLoader", "clip_name2")),
    "vae": (("VAELoader", "vae_name"),),
    "loras": (("RegionStyleExpert", "expert"), ("RegionStyleExpertStack", "expert"), ("LoraLoader", "lora_name")),
    "sams": (("RegionStyleLoadSam", "file"),),
    "grounding_dino": (("RegionStyleLoadDetector", "folder"),),
    "LLM": (("RegionStyleLoadVlm", "folder"),),
    "regionstyle_r2r": (("RegionStyleLoadR2R", "folder"),),
    "regionstyle_metrics": (("RegionStyleMetricNetworks", "text_image"), ("RegionStyleLoadLocalClip", "clip")),
}
FOLDERS = {"diffusers", "grounding_dino", "LLM", "regionstyle_r2r", "regionstyle_metrics"}
BESIDE_A_CLIP = {"vgg19"}  # read by its name beside the CLIP that is chosen: no node lists it
CONTENT = b"{}" + b" " * 2000

LISTS = """
import asyncio
import nodes

async def ours():
    extension = await regionstyle.comfy_entrypoint()
    if hasattr(extension, "on_load"):
        await extension.on_load()
    return {kind.define_schema().node_id: kind for kind in await extension.get_node_list()}

def choices(kind, name):
    given = kind.INPUT_TYPES()
    spec = {**given.get("required", {}), **given.get("optional", {})}[name]
    return list(spec[0]) if isinstance(spec[0], (list, tuple)) else list(spec[1]["options"])

kinds = {**nodes.NODE_CLASS_MAPPINGS, **asyncio.run(ours())}
print(json.dumps({f"{kind}.{name}": choices(kinds[kind], name) for kind, name in ASKED}))
"""


def named(pattern: str) -> str:
    """A file that a name or pattern of the catalogue means."""
    return pattern.replace("/*", "/config.json") if pattern.endswith("/*") else pattern.replace("*", "config")


def local(part: Part, hub) -> Part:
    """The part with its source on this machine, and its files there."""
    files = {named(file): CONTENT for file in part.files}
    if part.hub:
        hub.repositories.setdefault(part.hub, {}).update(files)
        return replace(part, known={})
    hub.plain.update({f"plain/{file}": content for file, content in files.items()})
    return replace(part, url=f"{hub.url}/plain", known={})


def expected(part: Part) -> set[str]:
    """What the inputs for the part's folder list of it."""
    kind, _, folder = part.folder.partition("/")
    if kind in FOLDERS:
        return {folder}
    return {part.place(named(file)).as_posix().partition("/")[2] for file in part.files}


@pytest.fixture(scope="module")
def shipped() -> list[PublicModel]:
    models = load_catalogue(Path(catalogues.__file__).with_name("catalogue.json")).models.values()
    return [model for model in models if model.name not in BESIDE_A_CLIP]


@pytest.fixture
def base(hub, shipped, tmp_path, monkeypatch) -> Path:
    """A base folder of ComfyUI in which all of the catalogue has been downloaded."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    models = [replace(model, parts=tuple(local(part, hub) for part in model.parts)) for model in shipped]
    run(plan(models, tmp_path / "models"))
    assert all(present(model, tmp_path / "models") for model in models)
    return tmp_path


@pytest.mark.parametrize("version", ["run_in_comfy", "run_in_old_comfy"])
def test_each_loader_lists_what_was_downloaded(version, base, shipped, request):
    asked = sorted({where for kinds in LOADERS.values() for where in kinds})
    script = f"ASKED = {json.dumps(asked)}\n{LISTS}"
    listed = request.getfixturevalue(version)(script, args=("--base-directory", str(base)))
    for model in shipped:
        for part in model.parts:
            for kind, name in LOADERS[part.folder.partition("/")[0]]:
                assert expected(part) <= set(listed[f"{kind}.{name}"]), (model.name, kind, name)


def test_an_empty_folder_lists_none_of_it(run_in_comfy, shipped, tmp_path):
    """What is listed comes from the folder: the same question without a download."""
    asked = sorted({where for kinds in LOADERS.values() for where in kinds})
    script = f"ASKED = {json.dumps(asked)}\n{LISTS}"
    listed = run_in_comfy(script, args=("--base-directory", str(tmp_path)))
    there = set().union(*map(set, listed.values()))
    assert not there & {name for model in shipped for part in model.parts for name in expected(part)}
