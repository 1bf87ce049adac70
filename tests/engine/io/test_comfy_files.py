"""Files in ComfyUI's folders: earlier ones are never overwritten, and one that was replaced is noticed."""

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import os, folder_paths, torch
from pathlib import Path
from regionstyle.nodes.engine.io.comfy_files import chosen_mark
from regionstyle.nodes.grounding.comfy.regions import save_to_output
from regionstyle.nodes.metrics.comfy.metrics import save_report
from regionstyle.nodes.engine.region.regions import Regions, region_of
from regionstyle.nodes.router.comfy.expert_nodes import StyleExpert
from regionstyle.nodes.router.comfy.stack_nodes import ExpertStack

names = []
for number in range(3):
    names += [place.name for place in save_report('{"a": %d}' % number, "run[1]", None)]
report = sorted(names)
first = (Path(folder_paths.get_output_directory()) / names[0]).read_text()
regions = Regions((region_of("a", torch.ones(4, 4)),), 4, 4, 1)
saved = [save_to_output(regions, "re[g]*ions") for _ in range(3)]

folder = Path(folder_paths.get_folder_paths("loras")[0])
folder.mkdir(parents=True, exist_ok=True)
file = folder / "replaced-in-a-test.safetensors"
marks = []
try:
    for content in (b"one", b"two!"):
        file.write_bytes(content)
        marks.append([node.fingerprint_inputs(expert=file.name) for node in (StyleExpert, ExpertStack)])
    os.utime(file, ns=(1, 1))
    marks.append([StyleExpert.fingerprint_inputs(expert=file.name, strength=1.0)] * 2)
finally:
    file.unlink()
gone = [chosen_mark("loras", name) for name in ("none.safetensors", None)]
print(json.dumps({"report": report, "first": first, "saved": saved, "marks": marks, "gone": gone}))
"""


@pytest.mark.parametrize("version", ["run_in_comfy", "run_in_old_comfy"])
def test_files_in_comfys_folders(version, request):
    result = request.getfixturevalue(version)(SCRIPT)
    assert len(set(result["report"])) == 6
    assert '"a": 0' in result["first"]
    assert len(set(result["saved"])) == 3
    first, second, third = result["marks"]
    assert first[0]
    assert first[0] == first[1]
    assert len({first[0], second[0], third[0]}) == 3
    assert result["gone"] == ["", ""]
