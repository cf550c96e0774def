"""Take a picture of a page's beginning: `picture.py PAGE.html PICTURE.png`."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

SIZE = {"width": 1280, "height": 1000}


def main() -> int:
    """Open the page in Chromium as a reader would, wait until its charts are drawn, and keep what is seen."""
    page, picture = (Path(name).resolve() for name in sys.argv[1:3])
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_path is None:
        sys.stderr.write("chromium is missing: install it (Debian: apt install chromium)\n")
        return 1
    picture.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        tab = browser.new_page(viewport=SIZE, color_scheme="light")
        tab.goto(page.as_uri())
        tab.wait_for_selector("canvas")
        tab.wait_for_load_state("networkidle")
        tab.screenshot(path=picture)
        browser.close()
    sys.stdout.write(f"{picture}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
