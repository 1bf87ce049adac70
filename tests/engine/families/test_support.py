"""Every page that says which models are supported says what the families say."""

import re
from pathlib import Path

import pytest

from regionstyle.nodes.app.cli.commands import MODEL
from regionstyle.nodes.engine.families.base import COMFY_VERSIONS
from regionstyle.nodes.engine.families.registry import families
from regionstyle.nodes.engine.families.support import (
    EXPERTS,
    RESTYLING,
    guidance_table,
    supported_folders,
    supported_guidance,
    supported_isolation,
    supported_table,
)

ROOT = Path(__file__).parents[3]
PAGES = {
    EXPERTS: ["Expert", "ExpertStack", "RegionalPrompts", "RouteByPrompt", "RouteByRegions"],
    RESTYLING: ["SmsStylize", "SmsTrainGenerator", "TrainStyle"],
}


def table_of(page):
    """Rows of the page's table of networks, as tuples of cells, its head first."""
    lines = (ROOT / f"nodes/web/docs/RegionStyle{page}/en.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| network |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
    return rows[:1] + rows[2:]


@pytest.mark.parametrize("page", PAGES[EXPERTS])
def test_tables_of_experts(page):
    head, *rows = table_of(page)
    assert head == ("network", *(f"ComfyUI {version}" for version in COMFY_VERSIONS))
    assert rows[:-1] == supported_table(EXPERTS)
    assert rows[-1] == ("FLUX.2 and others", "no, one clear error", "no, one clear error")


@pytest.mark.parametrize("page", PAGES[RESTYLING])
def test_tables_of_restyling(page):
    head, *rows = table_of(page)
    assert head == ("network", *(f"ComfyUI {version}" for version in COMFY_VERSIONS))
    tried, untried = supported_table(RESTYLING)
    assert rows[0] == tried
    assert (rows[1][0], rows[1][2]) == (untried[0], untried[2])
    assert rows[1][1] in (untried[1], "the same code, not tried")


def test_every_other_table_of_networks_begins_with_what_was_tried():
    checked = [f"RegionStyle{page}" for pages in PAGES.values() for page in pages]
    first = supported_table(RESTYLING)[0]
    for folder in (ROOT / "nodes/web/docs").iterdir():
        text = (folder / "en.md").read_text(encoding="utf-8")
        if folder.name not in checked and "| network |" in text and "U-Nets" in text:
            row = table_of(folder.name.removeprefix("RegionStyle"))[1]
            assert row[0].startswith(first[0]), folder.name
            assert row[1:] == first[1:], folder.name


def test_the_readme_and_the_command_line_name_the_families():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert supported_folders() in readme
    assert supported_folders() in MODEL
    assert supported_table(RESTYLING)[1][0].removesuffix(" classes") in readme


@pytest.mark.parametrize("file", ["expert_nodes", "routing_nodes"])
def test_tooltips_name_the_published_models(file):
    """They are literal, since importing the families with the nodes would make the pack slow to import."""
    source = (ROOT / f"nodes/router/comfy/{file}.py").read_text(encoding="utf-8")
    (listed,) = re.findall(r"The denoiser: (.+? or [^ ]+)\.", source)
    named = set(re.split(", | or ", listed))
    assert named <= {version for family in families() for version in family.versions}
    assert all(named & set(family.versions) for family in families())


def test_where_prompts_are_kept_apart():
    assert supported_isolation() == "SD1.5, SDXL and FLUX of both hosts; SD3 of ComfyUI"


@pytest.mark.parametrize("page", ["AttentionGuidance", "AttentionSampler"])
def test_tables_of_guidance(page):
    head, *rows = table_of(page)
    assert head == ("network", "bias", "gradient", "composition", "background lock")
    assert rows == guidance_table()


def test_the_sentence_about_guidance_names_every_family_once_per_form():
    said = supported_guidance()
    for family in families():
        for version in family.versions:
            named = said.replace("SD3.5", "") if version == "SD3" else said
            assert named.count(version) >= len(family.guides)
    assert "gradient: SD1.5, SD2 and SDXL;" in said
