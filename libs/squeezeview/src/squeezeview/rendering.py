"""One page as one file: the built front end around the document, nothing to load, nothing to ask of a network.

The file holds `report.css` and `report.js` as `make web` built them, each pack's base64 in a block of its own (packs are
deflated already), and the rest of the document as deflated JSON. The browser's own DecompressionStream unpacks them. The
Content-Security-Policy names the hashes of that one style and that one script, and allows nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import shutil
import zlib
from pathlib import Path

import msgspec

from squeezecore.adapters.page import Pack, Page
from squeezecore.errors import UsageError

ASSETS = Path(__file__).parent / "assets"  # what `make web` builds


def built() -> bool:
    """Tell whether the front end was built."""
    return all((ASSETS / name).is_file() for name in ("report.js", "report.css"))


def render(page: Page) -> bytes:
    """Make the HTML file of a page, UTF-8.

    The size is about 0.15 MB for the front end and, for each asset, 4/3 of its packs. Raise `UsageError` when the front end
    was not built; the message says how.
    """
    if not built():
        raise UsageError(how_to_build("report.js"))
    script = _within("script", (ASSETS / "report.js").read_text())
    style = _within("style", (ASSETS / "report.css").read_text())
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    document, packs = _without_packs(page)
    blocks = [_block("document", base64.b64encode(zlib.compress(msgspec.json.encode(document), 9)).decode())]
    blocks += [_block(f"pack-{number}", data) for number, data in enumerate(packs)]
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">',
            f'<link rel="icon" href="data:,">\n<title>{html.escape(page.title)}</title>',
            f"<style>{style}</style>\n</head>\n<body>",
            '<div id="page"><p class="waiting">Unpacking the report …</p></div>',
            "<noscript><p>This report draws itself with JavaScript, offline: allow scripts for this file.</p></noscript>",
            *blocks,
            f"<script>{script}</script>\n</body>\n</html>\n",
        )
    ).encode()


def _without_packs(page: Page) -> tuple[Page, list[str]]:
    """Take the packs' data out of a document and leave `#0`, `#1`, … in their places."""
    data: list[str] = []

    def aside(pack: Pack) -> Pack:
        data.append(pack.data)
        return msgspec.structs.replace(pack, data=f"#{len(data) - 1}")

    runs = tuple(
        msgspec.structs.replace(
            run,
            equity=aside(run.equity),
            series=tuple(
                msgspec.structs.replace(one, base=aside(one.base), seconds=aside(one.seconds)) for one in run.series
            ),
        )
        for run in page.runs
    )
    return msgspec.structs.replace(page, runs=runs), data


def _block(name: str, data: str) -> str:
    return f'<script type="text/plain" id="{name}">{data}</script>'


def _within(element: str, text: str) -> str:
    """Let a text end its element only at its end."""
    if element == "style" and "</style" in text:
        raise UsageError("report.css holds </style, which would end its element: build it without (make web)")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def how_to_build(name: str) -> str:
    """Say what is missing for one of the built files, and what builds it."""
    missing = [tool for tool in ("node", "npm") if shutil.which(tool) is None]
    install = (
        f"{' and '.join(missing)} missing: install them (Debian: apt install nodejs npm), then " if missing else ""
    )
    return f"the pages' front end was not built ({ASSETS.name}/{name} is missing): {install}run make web"
