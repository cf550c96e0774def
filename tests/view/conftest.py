"""A real browser for the page, offline: whatever it tells its console or asks of a network fails the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import squeezeview
from support import pages

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = {390: 844, 1280: 900, 1920: 1080}  # px


class Opened(NamedTuple):
    """A page that was opened, and what must stay empty."""

    page: Page
    complaints: list[str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give a browser; while it is there an event loop stands in this thread, so it goes with its module."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    assert found is not None, "no chromium was found, these tests look at the page in it: apt install chromium"
    with sync_playwright() as playwright:
        # A sandbox needs rights that a container's root lacks; the only file opened is our own.
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Render a sample and give its file; the same sample only once."""
    assert squeezeview.built(), "the page's front end was not built: run make web (Debian: apt install nodejs npm)"
    folder = tmp_path_factory.mktemp("pages")
    files: dict[str, Path] = {}

    def write(**sample: object) -> Path:
        key = repr(sorted(sample.items()))
        if key not in files:
            path = folder / f"{len(files)}.html"
            path.write_bytes(squeezeview.render(pages.sample(**sample).page))
            files[key] = path
        return files[key]

    return write


@pytest.fixture
def open_page(browser: Browser, written: Callable[..., Path]) -> Iterator[Callable[..., Opened]]:
    """Open a sample's page; at the end nothing may have complained and nothing been asked for."""
    opened: list[Opened] = []

    def start(width: int = 1280, theme: str = "light", *, file: Path | None = None, **sample: object) -> Opened:
        path = file or written(**sample)
        context = browser.new_context(
            viewport={"width": width, "height": WIDTHS.get(width, 900)}, color_scheme=theme, reduced_motion="reduce"
        )
        page, complaints = context.new_page(), []
        page.on("console", lambda message: complaints.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on(
            "request",
            lambda request: (
                request.url == path.as_uri()
                or request.url.startswith("data:")
                or complaints.append(f"request: {request.url}")
            ),
        )
        one = Opened(page, complaints)
        opened.append(one)
        page.goto(path.as_uri())
        page.wait_for_selector("#page[data-ready]")
        return one

    yield start
    for one in opened:
        one.page.context.close()
        assert one.complaints == []
