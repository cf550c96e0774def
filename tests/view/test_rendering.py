"""The file itself: whole, offline, small, and of the same words on both sides."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import types
import typing
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import squeezeview
from squeezecore.adapters import page
from squeezecore.errors import UsageError
from squeezeview import rendering
from support import pages

WEB = Path(rendering.__file__).parents[2] / "web" / "src"


def block(document: str, name: str) -> str:
    found = re.search(rf'<script type="text/plain" id="{name}">([^<]*)</script>', document)
    assert found is not None, name
    return found[1]


def test_the_file_holds_the_document_and_every_pack_once() -> None:
    sample = pages.sample().page
    text = squeezeview.render(sample).decode()
    document = json.loads(zlib.decompress(base64.b64decode(block(text, "document"))))
    assert [document["title"], document["format"]] == [sample.title, page.FORMAT]
    run, series = sample.runs[0], sample.runs[0].series[0]
    for pack, stored in (
        (run.equity, document["runs"][0]["equity"]),
        (series.base, document["runs"][0]["series"][0]["base"]),
        (series.seconds, document["runs"][0]["series"][0]["seconds"]),
    ):
        assert block(text, f"pack-{stored['data'][1:]}") == pack.data
        assert text.count(pack.data) == 1


def test_the_policy_allows_this_script_and_this_style_and_no_network() -> None:
    text = squeezeview.render(pages.sample().page).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    for element in ("script", "style"):
        found = re.search(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        assert found is not None
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none';")
    assert "unsafe" not in policy[1]
    assert "connect-src" not in policy[1]
    assert (
        re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)) == []
    )


def test_the_licences_of_what_is_in_the_file_are_in_the_file() -> None:
    text = squeezeview.render(pages.sample().page).decode()
    for name in ("Leon Sorokin", "Jason Miller"):
        assert name in text
    assert text.count("Permission is hereby granted") == 2


def test_words_of_a_document_cannot_leave_their_place() -> None:
    nasty = "</script><script>alert(1)</script>"
    text = squeezeview.render(msgspec.structs.replace(pages.sample().page, title=nasty)).decode()
    assert nasty not in text
    assert "<title>&lt;/script&gt;" in text


def test_without_a_built_front_end_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "ASSETS", tmp_path / "assets")
    assert not squeezeview.built()
    with pytest.raises(UsageError, match="make web"):
        squeezeview.render(pages.sample().page)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"node and npm missing.*apt install nodejs npm.*make web"):
        squeezeview.render(pages.sample().page)


def interfaces() -> dict[str, dict[str, str]]:
    """Read the front end's document types: interface → field → type."""
    text = (WEB / "report" / "document.ts").read_text() + (WEB / "components" / "packs.ts").read_text()
    return {
        name: dict(re.findall(r"^  (\w+): ([^;]+);", body, re.MULTILINE))
        for name, body in re.findall(r"^export interface (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    }


def structs() -> dict[str, type[msgspec.Struct]]:
    """Return every struct that a page is made of, by name."""
    found: dict[str, type[msgspec.Struct]] = {}

    def visit(kind: object) -> None:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__name__ not in found:
            found[kind.__name__] = kind
            for inner in typing.get_type_hints(kind).values():
                visit(inner)
        for inner in typing.get_args(kind):
            visit(inner)

    visit(page.Page)
    return found


def in_typescript(kind: object) -> str:
    """Say a Python type as the front end would see it arrive."""
    named = {str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}
    if kind in named:
        return named[typing.cast("type", kind)]
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " | ".join(in_typescript(one) for one in arguments)
    if typing.get_origin(kind) is tuple:
        if arguments[-1] is Ellipsis:
            inner = in_typescript(arguments[0])
            return f"({inner})[]" if "|" in inner else f"{inner}[]"
        return f"[{', '.join(in_typescript(one) for one in arguments)}]"
    return "string" if typing.cast("type", kind).__name__ == "date" else typing.cast("type", kind).__name__


def test_the_front_ends_types_are_the_documents() -> None:
    ours, theirs = structs(), interfaces()
    assert set(ours) - set(theirs) == set()
    for name, struct in ours.items():
        hints = typing.get_type_hints(struct)
        expected = {field: in_typescript(hints[field]) for field in struct.__struct_fields__}
        found = {field: kind.replace("Unit", "string") for field, kind in theirs[name].items()}
        assert found == expected, name


def test_the_front_end_reads_the_format_that_is_written() -> None:
    assert f"export const FORMAT = {page.FORMAT};" in (WEB / "report" / "document.ts").read_text()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**51), 2**51), min_size=1, max_size=40))
def test_a_pack_is_its_columns_differences(values: list[int]) -> None:
    """Read a pack as slowly as one can, as the front end's `decode` does fast."""
    packed = page.pack([page.Series("a", "s", 1, np.array(values)), page.Series("b", "s", 10, np.array(values[::-1]))])
    data = zlib.decompress(base64.b64decode(packed.data))
    numbers, number, place = [], 0, 0
    for byte in data:
        number |= (byte & 127) << place
        place += 7
        if byte < 128:
            numbers.append(number >> 1 ^ -(number & 1))
            number = place = 0
    n = len(values)
    assert np.cumsum(numbers[:n]).tolist() == values
    assert np.cumsum(numbers[n:]).tolist() == values[::-1]


def test_a_month_fits_under_six_megabytes() -> None:
    """A month's page is ten times three days' series: what three days weigh, times ten, with trades as dense."""
    size = len(squeezeview.render(pages.sample(days=3, trades_a_day=5).page))
    empty = len(squeezeview.render(pages.sample(days=1, trades_a_day=0).page))
    assert empty + (size - empty) * 10 < 6_000_000
