"""A running ComfyUI, reached over HTTP and its websocket."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import aiohttp

from ...engine.errors import RegionStyleError
from .errors import failed, interrupted, refused
from .workflow import Prompt

Result = TypeVar("Result")
Web = aiohttp.ClientSession
OnEvent = Callable[[str, Mapping[str, Any]], None]

POLL_SECONDS = 2.0  # how long a lost websocket message can delay the end
CANCEL_SECONDS, CANCEL_TRIES = 0.25, 20  # a node that looks at the interrupt more seldom ends later by itself
LARGEST_MESSAGE = 256 * 2**20  # previews of large pictures


class ServerComfy:
    """`definitions`, `upload`, `execute` and `read` against the server at `url`; each call opens its own connection."""

    def __init__(self, url: str):
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.place = f"the ComfyUI at {self.url}"
        self._client_id = str(uuid.uuid4())

    def close(self) -> None:
        """Nothing is held between calls."""

    def definitions(self, names: set[str]) -> dict[str, Any]:
        """`/object_info` of these node classes; unknown ones are absent."""

        async def fetch(web: Web) -> dict[str, Any]:
            known: dict[str, Any] = {}
            for name in sorted(names):
                known.update(await _json(web.get(f"{self.url}/object_info/{quote(name, safe='')}")))
            return known

        return self._call(fetch)

    def upload(self, file: Path) -> str:
        """The name of the file in the server's input folder. The server keeps both when another has that name."""

        async def send(web: Web) -> str:
            form = aiohttp.FormData()
            form.add_field("image", file.read_bytes(), filename=file.name)
            reply = await _json(web.post(f"{self.url}/upload/image", data=form))
            return "/".join(part for part in (reply.get("subfolder"), reply["name"]) if part)

        return self._call(send)

    def read(self, image: Mapping[str, Any]) -> bytes:
        """The bytes of an image that a node has written."""

        async def fetch(web: Web) -> bytes:
            query = urlencode({key: image[key] for key in ("filename", "subfolder", "type")})
            async with web.get(f"{self.url}/view?{query}") as reply:
                reply.raise_for_status()
                return await reply.read()

        return self._call(fetch)

    def execute(self, prompt: Prompt, on_event: OnEvent) -> dict[str, Any]:
        """Runs the prompt and returns the outputs of its nodes; Ctrl-C takes it off the server."""
        prompt_id = str(uuid.uuid4())
        try:
            history = self._call(lambda web: self._run(web, prompt, prompt_id, on_event))
        except KeyboardInterrupt:
            self._call(lambda web: self._cancel(web, prompt_id))
            raise
        return _outputs(prompt, history)

    def _call(self, work: Callable[[Web], Coroutine[Any, Any, Result]]) -> Result:
        async def connected() -> Result:
            async with aiohttp.ClientSession() as web:
                return await work(web)

        try:
            return asyncio.run(connected())
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise RegionStyleError(
                f"--server {self.url}: no answer from a ComfyUI there ({str(error) or type(error).__name__}). "
                "Start it, or check the address."
            ) from error

    async def _run(self, web: Web, prompt: Prompt, prompt_id: str, on_event: OnEvent) -> dict[str, Any]:
        address = f"{self.url}/ws?clientId={self._client_id}"
        async with web.ws_connect(address, max_msg_size=LARGEST_MESSAGE) as socket:
            prompt_id = await self._submit(web, prompt, prompt_id)
            while (history := await self._history(web, prompt_id)) is None:
                await _follow(socket, prompt_id, on_event)
        return history

    async def _submit(self, web: Web, prompt: Prompt, prompt_id: str) -> str:
        body = {"prompt": prompt, "client_id": self._client_id, "prompt_id": prompt_id}
        async with web.post(f"{self.url}/prompt", json=body) as reply:
            text = await reply.text()
            # 0.33 answers a body that it did not expect with plain text.
            answer: dict[str, Any] = json.loads(text) if "json" in reply.content_type else {"error": text}
            if reply.status != 200:
                raise refused(prompt, answer.get("error"), answer.get("node_errors") or {})
        return str(answer["prompt_id"])

    async def _history(self, web: Web, prompt_id: str) -> dict[str, Any] | None:
        entry: dict[str, Any] | None = (await _json(web.get(f"{self.url}/history/{prompt_id}"))).get(prompt_id)
        return entry

    async def _cancel(self, web: Web, prompt_id: str) -> None:
        """Out of the queue if it waits there, interrupted if it runs; other people's prompts are left alone.

        Asked again until the prompt is gone: ComfyUI forgets an interrupt that comes in the moment a prompt starts.
        """
        for _ in range(CANCEL_TRIES):
            await web.post(f"{self.url}/queue", json={"delete": [prompt_id]})
            await web.post(f"{self.url}/interrupt", json={"prompt_id": prompt_id})
            await asyncio.sleep(CANCEL_SECONDS)
            if not await self._is_queued(web, prompt_id):
                return

    async def _is_queued(self, web: Web, prompt_id: str) -> bool:
        """Whether the prompt waits or runs."""
        queue = await _json(web.get(f"{self.url}/queue"))
        return any(item[1] == prompt_id for item in queue["queue_running"] + queue["queue_pending"])


async def _json(request: Any) -> dict[str, Any]:
    async with request as reply:
        reply.raise_for_status()
        answer: dict[str, Any] = await reply.json(content_type=None)
        return answer


async def _follow(socket: Any, prompt_id: str, on_event: OnEvent) -> None:
    """Passes events on until the prompt ends, or nothing comes for a while, or the connection is lost."""
    while True:
        try:
            message = await socket.receive(timeout=POLL_SECONDS)
        except asyncio.TimeoutError:
            return
        if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.ERROR):
            await asyncio.sleep(POLL_SECONDS)  # the history is still there to ask
            return
        if message.type == aiohttp.WSMsgType.TEXT and _is_end(json.loads(message.data), prompt_id, on_event):
            return


def _is_end(event: Mapping[str, Any], prompt_id: str, on_event: OnEvent) -> bool:
    data = event.get("data") or {}
    if data.get("prompt_id") != prompt_id:
        return False
    on_event(event["type"], data)
    ended = event["type"] in ("execution_success", "execution_error", "execution_interrupted")
    return ended or (event["type"] == "executing" and data.get("node") is None)


def _outputs(prompt: Prompt, history: Mapping[str, Any]) -> dict[str, Any]:
    for kind, data in history.get("status", {}).get("messages", []):
        if kind == "execution_error":
            raise failed(prompt, data)
        if kind == "execution_interrupted":
            raise interrupted()
    outputs: dict[str, Any] = history.get("outputs", {})
    return outputs
