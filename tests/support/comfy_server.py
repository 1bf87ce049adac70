"""A ComfyUI server for the tests: its own folders, a free port, this pack linked in, stopped at the end."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACK_NAME = "ComfyUI-RegionStyle"
PROBE_PACK = Path(__file__).with_name("probe_pack")


class ComfyServer:
    """Attributes: url, input_dir, output_dir, temp_dir, log (path of its output), process."""

    def __init__(
        self, comfy: Path, python: Path, base: Path, *, start_seconds: float = 180, flags=("--cpu",), packages=None
    ):
        """flags: further options of ComfyUI; without --cpu it takes a GPU where there is one; packages: a folder of
        Python packages beside those of its environment."""
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.input_dir, self.output_dir, self.temp_dir = base / "input", base / "output", base / "temp"
        self.log = base / "server.log"
        for name in ("models", "custom_nodes", "input", "output", "temp", "user"):
            (base / name).mkdir(parents=True, exist_ok=True)
        link_pack(base / "custom_nodes")
        shutil.copytree(PROBE_PACK, base / "custom_nodes" / "probe_pack")
        self.process = self._start(comfy, python, base, flags, packages)
        self._wait_until_up(start_seconds)

    def _start(self, comfy: Path, python: Path, base: Path, flags: tuple[str, ...], packages) -> subprocess.Popen:
        command = [
            str(python), "main.py", *flags, "--disable-auto-launch", "--disable-api-nodes",
            "--port", self.url.rpartition(":")[2], "--base-directory", str(base),
            "--database-url", f"sqlite:///{base / 'comfyui.db'}",
        ]  # fmt: skip
        environment = {**os.environ, "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)
        environment |= {} if packages is None else {"PYTHONPATH": str(packages)}
        with self.log.open("wb") as log:
            return subprocess.Popen(command, cwd=comfy, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def _wait_until_up(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"ComfyUI did not start in {seconds:.0f} s:\n{self.log_text()[-4000:]}")

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path, timeout=30) as reply:
            return json.load(reply)

    def post_json(self, path: str, data: dict) -> tuple[int, dict]:
        """HTTP status and decoded body; an error status is returned, not raised."""
        body = json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                status, text = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        return status, json.loads(text) if text else {}

    def post(self, prompt: dict, **extra) -> str:
        """Queue an API-form prompt; returns its id, and fails with the server's own words when it is refused."""
        status, reply = self.post_json("/prompt", {"prompt": prompt, "client_id": str(uuid.uuid4()), **extra})
        if status != 200:
            raise AssertionError(f"ComfyUI refused the prompt ({status}): {json.dumps(reply, indent=1)}")
        return reply["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = 300) -> dict:
        """The prompt's history entry when it has ended: `status.status_str`, `status.messages`, `outputs`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"ComfyUI ended while working:\n{self.log_text()[-4000:]}")
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.1)
        raise AssertionError(f"prompt {prompt_id} did not end in {seconds:.0f} s:\n{self.log_text()[-4000:]}")

    def running(self, prompt_id: str) -> bool:
        return any(item[1] == prompt_id for item in self.get("/queue")["queue_running"])

    def interrupt(self) -> None:
        self.post_json("/interrupt", {})

    def images(self, history: dict) -> list[Path]:
        """The image files of a history entry, in the order of its outputs."""
        folders = {"output": self.output_dir, "temp": self.temp_dir, "input": self.input_dir}
        found = [image for output in history["outputs"].values() for image in output.get("images", [])]
        return [folders[image["type"]] / image["subfolder"] / image["filename"] for image in found]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def link_pack(custom_nodes: Path) -> Path:
    """This repository in a custom_nodes folder: a link where the system allows it, else a copy."""
    place = custom_nodes / PACK_NAME
    try:
        place.symlink_to(REPOSITORY, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(REPOSITORY, place, ignore=shutil.ignore_patterns(".git", ".venv*", "build", "__pycache__"))
    return place


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
