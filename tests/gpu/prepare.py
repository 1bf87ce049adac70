"""Makes a Python and a ComfyUI of what `pack.py` collected: python tests/gpu/prepare.py PACKED FOLDER

FOLDER/env/bin/python sees what this Python sees and the wheels before it, this repository as `regionstyle`, and
stand-ins for what ComfyUI imports and nothing here uses; FOLDER/ComfyUI is its tree. No network, no compiler. Names
what is still missing and ends with exit code 1.
"""

from __future__ import annotations

import site
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
IMPORTED = (
    "torch", "torchvision", "torchaudio", "numpy", "PIL", "scipy", "tqdm", "aiohttp", "safetensors", "transformers",
    "peft", "diffusers", "skimage", "segment_anything", "pytest", "pytest_timeout", "xdist", "einops", "torchsde",
    "sqlalchemy", "alembic", "comfy_aimdo", "comfy_kitchen", "blake3", "psutil", "yaml", "sentencepiece", "spandrel",
    "av",
)  # fmt: skip
PROBE = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: {error}")
"""


def own_places() -> list[str]:
    """Where this Python finds packages: a new environment on top of one in use would not see that one's."""
    places = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    places += [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [place for place in dict.fromkeys(places) if Path(place).is_dir()]


def make_environment(packed: Path, folder: Path) -> Path:
    """The environment's Python; SystemExit where the wheels are for another."""
    venv.EnvBuilder(clear=True, with_pip=False, symlinks=True).create(folder)
    python = folder / "bin" / "python"
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--no-cache-dir",
    ]
    wheels = [str(wheel) for wheel in sorted((packed / "wheels").glob("*.whl"))]
    if subprocess.run([*install, "--target", str(packages), *wheels]).returncode:
        here = ".".join(map(str, sys.version_info[:2]))
        raise SystemExit(
            f"The wheels in {packed} do not fit this Python, {here}. For this one: pack.py --python-version {here}; "
            "to run with the packages that are here: PACKED= tests/gpu/run.sh"
        )
    link = folder / "pack" / "regionstyle"
    link.parent.mkdir()
    link.symlink_to(ROOT, target_is_directory=True)
    places = [str(link.parent), *own_places(), str(HERE / "stand_ins")]  # a real package before its stand-in
    (packages / "regionstyle_gpu.pth").write_text("\n".join(places) + "\n", encoding="utf-8")
    return python


def missing(python: Path) -> str:
    """What cannot be imported, and why; one a line."""
    return subprocess.run([str(python), "-c", PROBE, *IMPORTED], capture_output=True, text=True).stdout


def main() -> int:
    packed, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python = make_environment(packed, folder / "env")
    with tarfile.open(packed / "ComfyUI.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    if lacking := missing(python):
        sys.stderr.write(f"Not on this machine (take them off tests/gpu/there.txt and pack again):\n{lacking}")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
