"""The page at /docs: every path of a service from its OpenAPI description, as plain HTML.

No script, no style of its own, nothing from elsewhere: it works offline and under the strictest Content-Security-Policy.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any


def page(described: Mapping[str, Any]) -> str:
    """Write an OpenAPI description as a page."""
    title = html.escape(str(described["info"]["title"]))
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta name="color-scheme" content="light dark">\n<title>{title}</title>\n</head>\n<body>',
            f'<h1>{title}</h1>\n<p>The same for machines: <a href="openapi.json">openapi.json</a>.</p>',
            *_paths(described["paths"]),
            "</body>\n</html>\n",
        )
    )


def _paths(paths: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, what in methods.items():
            yield f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"
            locked = "".join(
                f" Needs a token of the role {role}." for each in what.get("security", ()) for role in each
            )
            text = str(what.get("description") or what.get("summary", ""))
            yield "".join(f"<p>{html.escape(part)}</p>" for part in f"{text}{locked}".split("\n\n"))
            given = what.get("parameters", ())
            if given:
                yield f"<ul>{''.join(map(_parameter, given))}</ul>"


def _parameter(given: Mapping[str, Any]) -> str:
    schema = given.get("schema", {})
    words = [str(given["in"])]
    words += ["required"] if given.get("required") else []
    words += [f"{name} {schema[name]}" for name in ("default", "minimum", "maximum") if schema.get(name) is not None]
    text = str(given.get("description", schema.get("description", "")))
    return (
        f"<li><code>{html.escape(str(given['name']))}</code> ({html.escape(', '.join(words))}) {html.escape(text)}</li>"
    )
