"""Scripts in ComfyUI's own interpreter, each in a process forked from one that has imported ComfyUI already.

What a script sees is a fresh process, as with `comfy_script.run_script`; only the seconds of importing torch and
ComfyUI are spent once for all of them. On the CPU alone: a process that has touched a GPU cannot be forked.
"""

import json
import os
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

from comfy_script import PREAMBLE, environment_of, result_of, run_script

# One line of JSON in per script (its text, where its output goes, the environment), one line with the exit code out.
PARENT = """
import gc, traceback
import torch, comfy.sd, comfy.sample, comfy.samplers, nodes
_answers = os.dup(1)
os.dup2(2, 1)
gc.collect()
gc.freeze()

def _run(order):
    '''In the child: the script as the main module of a process of its own. Never returns.'''
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the orders are the parent's
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    code = 0
    try:
        os.environ.clear()
        os.environ.update(order["environment"])
        exec(compile(order["script"], "<script>", "exec"), globals())
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for _line in sys.stdin:
    _order = json.loads(_line)
    _child = os.fork()
    if _child == 0:
        _run(_order)
    os.write(_answers, f"{_child}\\n".encode())
    os.write(_answers, f"{os.waitstatus_to_exitcode(os.waitpid(_child, 0)[1])}\\n".encode())
"""


class ForkingComfy:
    """A ComfyUI that is imported and waits for scripts; it ends with the process that made it."""

    def __init__(self, comfy: Path, python: Path):
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 it lives as long as the process
        self.process = subprocess.Popen(
            [str(python), "-c", PREAMBLE + PARENT],
            cwd=comfy, env=environment_of(comfy), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip

    def run(self, script: str, environment: dict[str, str], seconds: float) -> subprocess.CompletedProcess:
        """The script's exit code and what it wrote. Raises TimeoutError when it takes longer, and kills it."""
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder) / name for name in ("stdout", "stderr")}
            places = {name: str(file) for name, file in files.items()}
            try:
                self._send({"script": script, "environment": environment, **places})
                code = self._code_of(self._answer(), seconds)
            except BaseException:
                self.process.kill()  # the next script finds a new one, and no answer that was meant for this one
                self.process.wait()
                raise
            said = {name: file.read_text(errors="replace") for name, file in files.items() if file.exists()}
        return subprocess.CompletedProcess(["script"], code, **{"stdout": "", "stderr": "", **said})

    def _send(self, order: dict) -> None:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def _answer(self) -> int:
        """The next number that it writes; AssertionError with its own words when it has ended."""
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise AssertionError(f"ComfyUI's process ended:\n{self.log.read()[-6000:]}")
        return int(line)

    def _code_of(self, child: int, seconds: float) -> int:
        late = threading.Timer(seconds, os.killpg, (child, signal.SIGKILL))
        late.start()
        try:
            code = self._answer()
            if not late.is_alive():
                raise TimeoutError(f"the script took more than {seconds} s")
        finally:
            late.cancel()
        return code


_RUNNING: dict[tuple[Path, Path], ForkingComfy] = {}


def forking(comfy: Path, python: Path) -> ForkingComfy:
    """The one of this process; a new one where it has ended."""
    known = _RUNNING.get((comfy, python))
    if known is None or known.process.poll() is not None:
        known = _RUNNING[comfy, python] = ForkingComfy(comfy, python)
    return known


def run_forked(comfy: Path, python: Path, script: str, *, args: tuple[str, ...] = (), seconds: float = 600) -> dict:
    """As `run_script` on the CPU. Options of ComfyUI are read as it is imported: with them, in a new process."""
    if args:
        return run_script(comfy, python, script, args=args, seconds=seconds)
    return result_of(forking(comfy, python).run(script, environment_of(comfy), seconds))
