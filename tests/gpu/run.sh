#!/usr/bin/env bash
# Everything that wants a GPU, in one command of less than nine minutes: see README.md beside this file.
#   tests/gpu/run.sh [--dry-run] [--only PART,PART] [--list] [--out FOLDER]
# Uses what `pack.py` put into build/gpu (or PACKED) where that is there, else the Python and the ComfyUI that are here.
# PYTHON names the Python (default: python3).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
packed=${PACKED-$root/build/gpu}
if [ -n "$packed" ] && [ -d "$packed/wheels" ]; then
    box=$(mktemp -d)
    trap 'rm -rf "$box"' EXIT
    "$python" "$here/prepare.py" "$packed" "$box"
    python=$box/env/bin/python
    export COMFYUI_PATH=$box/ComfyUI COMFYUI_PYTHON=$python
    unset PYTHONPATH
fi
"$python" "$here/run.py" --spent "$SECONDS" "$@"
