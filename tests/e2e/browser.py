"""A browser that tells of everything that a page does wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Playwright, expect

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox",  # the tests run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # else it calls its maker at every start
    "--disable-component-update",
    "--disable-sync",
)
Scheme = Literal["light", "dark"]
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
SCREENSHOTS = Path(os.environ.get("MIRROR_E2E_SCREENSHOTS", "results/dashboard"))


def launched(playwright: Playwright) -> Browser:
    """Start Debian's Chromium."""
    return playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))


class Window:
    """One page of a browser; ``faults`` is all that it complained about."""

    def __init__(
        self, browser: Browser, url: str, *, size: str = "desktop", scheme: Scheme = "light"
    ) -> None:
        width, height = SIZES[size]
        self._context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        self._name = f"{size}-{scheme}"
        self._base = url
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(15_000)
        self.faults: list[str] = []
        self.page.on("console", self._noted)
        self.page.on("pageerror", lambda error: self.faults.append(f"uncaught: {error}"))
        self.page.on("request", self._asked)

    def open(self, fragment: str) -> Page:
        """Go to a page of the dashboard, and wait until it has nothing left to load."""
        self.page.goto("about:blank")
        self.page.goto(f"{self._base}{fragment}")
        expect(self.page.get_by_role("heading", level=1)).to_be_visible()
        expect(self.page.locator("main .skeleton:visible")).to_have_count(0)
        return self.page

    def shoot(self, name: str) -> None:
        """Keep a picture for whoever wants to look."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}-{self._name}.png", full_page=True)

    def is_too_wide(self) -> bool:
        """Tell whether one must scroll sideways to see the page."""
        root = "document.documentElement"
        return bool(self.page.evaluate(f"{root}.scrollWidth > {root}.clientWidth"))

    def barriers(self) -> list[str]:
        """Return what axe-core calls a serious or critical barrier."""
        # The page's own policy forbids eval, which the debugger may do all the same.
        found: Any = Axe().run(self.page).response["violations"]
        return [
            json.dumps({"rule": each["id"], "nodes": [node["html"] for node in each["nodes"]][:3]})
            for each in found
            if each["impact"] in {"serious", "critical"}
        ]

    def close(self) -> None:
        """Close it."""
        self._context.close()

    def _noted(self, message: Any) -> None:  # noqa: ANN401 -- untyped where it is not installed
        if message.type in {"error", "warning"}:  # a violation of the policy is an error
            self.faults.append(f"{message.type}: {message.text}")

    def _asked(self, request: Any) -> None:  # noqa: ANN401 -- as above
        if not request.url.startswith((self._base, "about:", "data:")):
            self.faults.append(f"asked elsewhere: {request.url}")
