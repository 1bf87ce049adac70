"""Two copies of this pack in custom_nodes: one warning that names both, whichever ComfyUI loads first."""

import json

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import asyncio, logging, shutil, tempfile
from pathlib import Path
import folder_paths, nodes

REPOSITORY = Path(os.environ["REGIONSTYLE_TEST_PACK"])
OLD = '''
class Restyle:
    RETURN_TYPES, FUNCTION, CATEGORY = (), "run", "old"
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
NODE_CLASS_MAPPINGS = {"RegionStyleRestyle": Restyle}
'''

def new_copy(folder):
    folder.mkdir()
    for name in ("__init__.py", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder / name)
    for name in ("nodes", "kernels"):
        (folder / name).symlink_to(REPOSITORY / name, target_is_directory=True)

def old_copy(folder):
    folder.mkdir()
    shutil.copy(REPOSITORY / "pyproject.toml", folder / "pyproject.toml")
    (folder / "__init__.py").write_text(OLD)

class Heard(logging.Handler):
    def emit(self, record):
        if record.levelno >= logging.WARNING:
            texts.append(record.getMessage())

texts = []
logging.getLogger().addHandler(Heard())

def warnings(*copies):
    '''What is said while these copies are loaded in their order, without the folder they lie in.'''
    base = Path(tempfile.mkdtemp())
    folder_paths.folder_names_and_paths["custom_nodes"] = ([str(base)], set())
    for name in [name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("RegionStyle")]:
        del nodes.NODE_CLASS_MAPPINGS[name]
    texts.clear()
    for name, make in copies:
        make(base / name)
    for name, _ in copies:
        if not name.endswith(".disabled"):
            assert asyncio.run(nodes.load_custom_node(str(base / name))), texts
    return [text.replace(str(base) + os.sep, "") for text in texts]

print(json.dumps({
    "alone": warnings(("one", new_copy)),
    "new after new": warnings(("one", new_copy), ("two", new_copy)),
    "new after old": warnings(("old", old_copy), ("one", new_copy)),
    "old after new": warnings(("one", new_copy), ("other", old_copy)),
    "switched off": warnings(("one", new_copy), ("two.disabled", new_copy)),
}))
"""


@pytest.mark.parametrize("fixture", ["run_in_comfy", "run_in_old_comfy"])
def test_two_copies_are_said_once_with_both_folders(fixture, request):
    heard = request.getfixturevalue(fixture)(SCRIPT)
    said = {case: [text for text in texts if "installed twice" in text] for case, texts in heard.items()}
    assert not said["alone"]
    assert not said["switched off"]
    for case, own, other in (
        ("new after new", "one", "two"),
        ("new after old", "one", "old"),
        ("old after new", "one", "other"),
    ):
        assert len(said[case]) == 1, (case, json.dumps(heard))
        assert f"in {own} and in {other}." in said[case][0]
