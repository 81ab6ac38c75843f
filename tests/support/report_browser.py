"""A headless Chromium that clicks through Snakemake's report, over its debugging protocol."""

import asyncio
import base64
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0", "--window-size=1400,1000",
]  # fmt: skip
HAS_TEXT = "[...document.querySelectorAll('span')].some(e => e.innerText === {})"
CLICK_TEXT = "[...document.querySelectorAll('span')].find(e => e.innerText === {}).click()"
EYES = "document.querySelectorAll('a[iconname=eye]')"
SHOWN = """[...document.querySelectorAll('img, iframe')]
    .filter(e => !(e.src || '').includes('filename=logo.svg'))
    .map(e => ({kind: e.tagName, width: e.naturalWidth || e.clientWidth,
                file: (/filename=([^;]*)/.exec(e.src || '') || ['', ''])[1]}))"""


class Page:
    """One page of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._n = socket, 0
        self.errors: list[str] = []

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; console errors in the meantime are kept."""
        self._n += 1
        await self._socket.send_json({"id": self._n, "method": method, "params": params})
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("id") == self._n:
                return message["result"]
            about = message["params"]
            level = about.get("type") or about.get("entry", {}).get("level")
            if message["method"] == "Runtime.exceptionThrown" or level == "error":
                self.errors.append(json.dumps(about)[:500])

    async def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        found = await self.command("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def wait_for(self, script: str) -> Any:
        """Wait until an expression is true, at most 30 s; return its value."""
        for _ in range(150):
            if value := await self.evaluate(script):
                return value
            await asyncio.sleep(0.2)
        raise AssertionError(f"never true: {script}")


async def _visit(url: str, menus: list[list[str]], port: str, folder: Path) -> Any:
    shown: dict[str, list[dict[str, Any]]] = {}
    async with aiohttp.ClientSession() as session:
        tabs = await (await session.get(f"http://127.0.0.1:{port}/json")).json()
        tab = next(tab for tab in tabs if tab["type"] == "page")
        async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            page = Page(socket)
            for domain in ("Page", "Runtime", "Log"):
                await page.command(f"{domain}.enable")
            for menu in menus:
                shown["/".join(menu)] = await _open_all(page, url, menu, folder)
    return shown, page.errors


async def _open_all(page: Page, url: str, menu: list[str], folder: Path) -> list[dict[str, Any]]:
    """Open each result of a menu, one after the other; return what each shows."""
    await page.command("Page.navigate", url=url)
    for text in menu:
        await page.wait_for(HAS_TEXT.format(json.dumps(text)))
        await page.evaluate(CLICK_TEXT.format(json.dumps(text)))
    found = []
    for i in range(await page.wait_for(f"{EYES}.length")):
        await page.evaluate(f"{EYES}[{i}].click()")
        await asyncio.sleep(0.5)
        found += await page.wait_for(
            f"({SHOWN}).every(e => e.width) && ({SHOWN}).length && {SHOWN}"
        )
        picture = await page.command("Page.captureScreenshot")
        (folder / f"{'-'.join(menu)}-{i}.png").write_bytes(base64.b64decode(picture["data"]))
    return found


def click_through(
    chromium: str, page: Path, menus: list[list[str]], folder: Path
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Open each result behind each menu (a category, a subcategory) of a report.

    Returns what is seen (kind, width in pixels, file) by menu, and the errors on the console;
    screenshots lie in `folder`.
    """
    command = [chromium, *FLAGS, f"--user-data-dir={folder / 'clicks'}", "about:blank"]
    browser = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert browser.stderr is not None
        port = next(
            match[1] for line in browser.stderr if (match := re.search(r"ws://[^/]*:(\d+)/", line))
        )
        return asyncio.run(_visit(page.as_uri(), menus, port, folder))
    finally:
        browser.terminate()
        browser.wait(timeout=30)
