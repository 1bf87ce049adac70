"""Runs in ComfyUI's own Python, started by comfy_process.py as a file: ComfyUI's executor, driven by lines of JSON.

Arguments: ComfyUI's folder, this pack's folder, a folder for what is written. stdin: one request a line. stdout: one
message a line; everything that ComfyUI writes goes to stderr. Only the standard library and ComfyUI are used, and
nothing of the pack: ComfyUI loads that itself, from its folder, as it does with any pack.
"""

import asyncio
import json
import logging
import os
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

CLIENT_ID = "regionstyle"
OUTPUT_FOLDER = "REGIONSTYLE_OUTPUT_FOLDER"  # engine/host/training_state.py reads it
TEXT_EVENT = 3  # BinaryEventTypes.TEXT: what a node says of itself


def main() -> None:
    channel = _claim_stdout()
    comfy, pack, folder = sys.argv[1:4]
    _prepare_imports(comfy)
    executor = Executor(pack, folder, channel)
    executor.say({"input_folder": executor.input_folder, "output_folder": executor.output_folder})
    for line in sys.stdin:
        request = json.loads(line)
        answers: dict[str, Callable[..., dict[str, Any]]] = {"describe": executor.describe, "execute": executor.execute}
        executor.say(answers[request.pop("do")](**request))


def _claim_stdout() -> Any:
    """The real stdout for our messages; whatever else is written to stdout goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return channel


def _prepare_imports(folder: str) -> None:
    """ComfyUI's modules on the path, this file's folder off it, and the command line that ComfyUI will read."""
    sys.path[0] = folder  # was this file's folder
    sys.argv = ["main.py", *([] if _has_accelerator() else ["--cpu"])]
    import comfy.options

    comfy.options.enable_args_parsing()
    import utils.extra_config  # before `nodes`: 0.3.64 puts comfy/ on the path, where another utils.py lies

    models = os.path.join(folder, "extra_model_paths.yaml")  # main.py reads it too
    if os.path.isfile(models):
        utils.extra_config.load_extra_path_config(models)


def _has_accelerator() -> bool:
    """Without one ComfyUI must be told --cpu, or it fails at start."""
    import torch

    backends = [torch.cuda, *(getattr(torch, name, None) for name in ("xpu", "mps", "npu", "mlu"))]
    return any(backend is not None and backend.is_available() for backend in backends)


class Executor:
    """ComfyUI's PromptExecutor with the pack loaded, as ComfyUI's own main.py sets it up for its server."""

    def __init__(self, pack: str, folder: str, channel: Any):
        import folder_paths

        self._channel = channel
        self.input_folder = folder_paths.get_input_directory()
        self.output_folder = folder_paths.get_output_directory()
        os.environ[OUTPUT_FOLDER] = self.output_folder  # the pack keeps cancelled trainings there
        folder_paths.set_output_directory(os.path.join(folder, "output"))
        folder_paths.set_temp_directory(os.path.join(folder, "temp"))
        for place in (self.input_folder, folder_paths.get_output_directory(), folder_paths.get_temp_directory()):
            os.makedirs(place, exist_ok=True)
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._server = self._make_server()
        self._load_nodes(pack)
        self._executor = self._make_executor()
        self._others_loaded = False

    def say(self, message: dict[str, Any]) -> None:
        self._channel.write(json.dumps(message, default=str) + "\n")
        self._channel.flush()

    def _make_server(self) -> Any:
        """A real PromptServer that never listens: nodes look it up, and its messages come to us."""
        import server

        prompt_server = server.PromptServer(self._loop)
        prompt_server.client_id = CLIENT_ID
        prompt_server.send_sync = self._on_message
        return prompt_server

    def _on_message(self, event: Any, data: Any, sid: Any = None) -> None:
        if event in ("executing", "execution_cached"):
            self.say({"event": event, "data": data})
        elif event == TEXT_EVENT:
            length = struct.unpack(">I", data[:4])[0]
            node, text = data[4 : 4 + length], data[4 + length :]
            self.say({"event": "text", "data": {"node": node.decode(), "text": text.decode("utf-8", "replace")}})

    def _load_nodes(self, pack: str) -> None:
        import nodes

        self._loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
        problems = _Problems()
        logging.getLogger().addHandler(problems)
        loaded = self._loop.run_until_complete(nodes.load_custom_node(pack))
        logging.getLogger().removeHandler(problems)
        if not loaded:
            self.say({"problem": problems.last or f"the pack in {pack} did not load"})
            raise SystemExit(1)

    def _make_executor(self) -> Any:
        import comfy.utils
        import execution

        comfy.utils.set_progress_bar_global_hook(self._on_progress)
        signal.signal(signal.SIGINT, _interrupt)
        options: dict[str, Any] = {"lru": 0, "ram": 0, "ram_inactive": 0}
        names = execution.PromptExecutor.__init__.__code__.co_varnames
        keywords = {"cache_args": options} if "cache_args" in names else {}
        return execution.PromptExecutor(self._server, cache_type=execution.CacheType.CLASSIC, **keywords)

    def _on_progress(self, value: Any, total: Any, preview: Any, prompt_id: Any = None, node_id: Any = None) -> None:
        """The hook of every ProgressBar; main.py sets the same kind of hook for the browser."""
        import comfy.model_management
        from comfy_execution.utils import get_executing_context

        comfy.model_management.throw_exception_if_processing_interrupted()
        context = get_executing_context()
        node = node_id or (context.node_id if context is not None else self._server.last_node_id)
        self.say({"event": "progress", "data": {"node": node, "value": value, "max": total}})

    def describe(self, names: list[str]) -> dict[str, Any]:
        """`/object_info` of these classes. The user's other packs are loaded only if one of them is needed."""
        import nodes

        if not self._others_loaded and any(name not in nodes.NODE_CLASS_MAPPINGS for name in names):
            self._others_loaded = True
            self._loop.run_until_complete(nodes.init_external_custom_nodes())
        return {"definitions": {n: _definition(n) for n in names if n in nodes.NODE_CLASS_MAPPINGS}}

    def execute(self, prompt: dict[str, Any], partial: bool) -> dict[str, Any]:
        """Validates and runs one prompt: its outputs, or what ComfyUI says against it.

        partial: run the branches that pass, where others do not.
        """
        import execution

        valid = self._loop.run_until_complete(execution.validate_prompt(CLIENT_ID, prompt, None))
        if not valid[0] or (valid[3] and not partial):
            return {"refused": [valid[1], valid[3]]}
        work = self._executor.execute_async(prompt, CLIENT_ID, {"client_id": CLIENT_ID}, valid[2])
        self._loop.run_until_complete(work)
        answer = {"outputs": self._executor.history_result["outputs"], "node_errors": valid[3]}
        for event, data in self._executor.status_messages:
            if event == "execution_error":
                answer["failed"] = {key: data[key] for key in ("node_id", "exception_type", "exception_message")}
            if event == "execution_interrupted":
                answer["interrupted"] = True
        return answer


class _Problems(logging.Handler):
    """Remembers the last line of the last warning, which is how ComfyUI reports a pack that does not load."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.last = record.getMessage().strip().splitlines()[-1]


def _interrupt(*_: Any) -> None:
    import comfy.model_management

    comfy.model_management.interrupt_current_processing(True)


def _definition(name: str) -> dict[str, Any]:
    """What `/object_info` says of a class, as far as it is used here."""
    import nodes

    node = nodes.NODE_CLASS_MAPPINGS[name]
    if hasattr(node, "GET_NODE_INFO_V1"):
        return node.GET_NODE_INFO_V1()
    inputs = node.INPUT_TYPES()
    return {
        "input": inputs,
        "input_order": {section: list(specs) for section, specs in inputs.items()},
        "display_name": nodes.NODE_DISPLAY_NAME_MAPPINGS.get(name, name),
    }


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
