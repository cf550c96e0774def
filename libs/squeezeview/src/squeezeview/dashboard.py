"""The live dashboard's files, as `make web` built them: a shell, one script, one style sheet.

Whoever serves them says the Content-Security-Policy. They need `script-src 'self'; style-src 'self'; connect-src 'self';
img-src 'self' data:` and nothing else: no inline script or style, no request to anywhere but the server they came from.
"""

from __future__ import annotations

from collections.abc import Mapping

from squeezecore.errors import UsageError
from squeezeview.rendering import ASSETS, how_to_build

MEDIA_TYPES = {
    "live.html": "text/html; charset=utf-8",
    "live.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
}


def live_built() -> bool:
    """Tell whether the dashboard was built."""
    return all((ASSETS / name).is_file() for name in MEDIA_TYPES)


def live() -> Mapping[str, tuple[bytes, str]]:
    """Return each file by its name, with its media type.

    `live.html` is the page; it asks for `assets/live.css` and `assets/live.js` beside itself, each with the beginning of its
    hash as query. Raise `UsageError` when they were not built; the message says how.
    """
    if not live_built():
        raise UsageError(how_to_build("live.js"))
    return {name: ((ASSETS / name).read_bytes(), kind) for name, kind in MEDIA_TYPES.items()}
