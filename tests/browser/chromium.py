"""A page in headless Chromium, driven over the DevTools protocol: no driver program, no package besides aiohttp."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

__all__ = ["Page", "find_chromium", "open_page"]

TIMEOUT = 30.0

_FLAGS = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    # Without these it looks up hosts of its maker, which a machine without a network answers slowly.
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--remote-debugging-port=0",
)


def find_chromium() -> str | None:
    """The path of the browser, None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Page:
    """One tab. `faults` are what went wrong in it: exceptions, and what the browser itself reports as an error."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.loaded = asyncio.Event()
        self.faults: list[str] = []

    async def listen(self) -> None:
        """Take in what the browser says, until it closes."""
        async for message in self._socket:
            content = message.json()
            if "id" in content:
                self._answers.pop(content["id"]).set_result(content)
            elif content["method"] == "Page.loadEventFired":
                self.loaded.set()
            elif content["method"] == "Runtime.exceptionThrown":
                self.faults.append(str(content["params"]["exceptionDetails"]))
            elif content["method"] == "Log.entryAdded" and content["params"]["entry"]["level"] == "error":
                self.faults.append(str(content["params"]["entry"]))

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        content = await asyncio.wait_for(answer, TIMEOUT)
        if "error" in content:
            raise AssertionError(f"{method}: {content['error']}")
        return dict(content["result"])

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    async def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        script = f"""new Promise(done => {{
            const end = Date.now() + {TIMEOUT / 2 * 1000};
            const look = () => ({condition}) ? done(true) : Date.now() > end ? done(false) : setTimeout(look, 20);
            look();
        }})"""
        if not await self.run(script):
            text = await self.run("document.body.innerText")
            raise AssertionError(f"waited in vain for {condition}; faults: {self.faults}; the page:\n{text}")

    async def picture(self) -> bytes:
        """The whole page, as PNG."""
        result = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(result["data"])


@asynccontextmanager
async def open_page(chromium: str, url: str, *, width: int = 1280, height: int = 900) -> AsyncIterator[Page]:
    """The page at `url` in a browser of its own, which ends with the block."""
    with tempfile.TemporaryDirectory(prefix="stampede-chromium-", ignore_cleanup_errors=True) as profile:
        flags = [*_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")
        process = await asyncio.create_subprocess_exec(
            chromium, *flags, "about:blank", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        listening: asyncio.Task[None] | None = None
        try:
            port = await asyncio.wait_for(_port(process), TIMEOUT)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                    targets = await response.json()
                target = next(each for each in targets if each["type"] == "page")
                async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    page = Page(socket)
                    listening = asyncio.create_task(page.listen())
                    for domain in ("Page", "Runtime", "Log"):
                        await page.call(f"{domain}.enable")
                    await page.call("Page.navigate", url=url)
                    await asyncio.wait_for(page.loaded.wait(), TIMEOUT)
                    yield page
        finally:
            if listening is not None:
                listening.cancel()
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _port(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    said = b""
    async for line in process.stderr:
        said += line
        if found := re.search(rb"DevTools listening on ws://[^/]*:(\d+)/", line):
            return int(found[1])
    raise AssertionError(f"Chromium did not start: {said.decode(errors='replace')}")
