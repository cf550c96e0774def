"""Bring a database to this code's schema: numbered files, applied in order, each recorded when it is in.

Every statement says IF NOT EXISTS, so a file that was cut short, or applied by two processes at once, is simply applied
again. A file that was released is never changed; a change is a new file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources

from squeezecore.adapters.clickhouse import Connection, StoreError
from squeezecore.adapters.tables import TABLES


def migrate(connection: Connection) -> None:
    """Apply what is missing, then check that the columns are those this code knows.

    Raises:
        StoreError: the schema is newer than this code, or its columns differ.
    """
    files = schema_files()
    newest = max(files)
    connection.create_database()
    columns = stored_columns(connection)
    if "schema_version" not in columns:
        connection.command(
            "CREATE TABLE IF NOT EXISTS schema_version (version UInt32, name String) "
            "ENGINE = ReplacingMergeTree ORDER BY version"
        )
    applied = set(connection.query("SELECT version FROM schema_version FINAL")["version"].to_pylist())
    if applied and max(applied) > newest:
        raise StoreError(
            f"schema of database {connection.database} was version {max(applied)}, this program knows {newest}: "
            "use a newer squeezeflow, or another --home"
        )
    pending = sorted(set(files) - applied)
    for version in pending:
        name, text = files[version]
        for statement in statements(text):
            connection.command(statement)
        connection.command(f"INSERT INTO schema_version (version, name) VALUES ({version}, '{name}')")
    check_columns(connection.database, stored_columns(connection) if pending else columns)


def stored_columns(connection: Connection) -> dict[str, dict[str, str]]:
    """Return, by table and column, the kind of default a column has."""
    table = connection.query(
        "SELECT table, name, default_kind FROM system.columns WHERE database = {db:String}", {"db": connection.database}
    )
    found: dict[str, dict[str, str]] = {}
    for row in table.to_pylist():
        found.setdefault(row["table"], {})[row["name"]] = row["default_kind"]
    return found


def check_columns(database: str, stored: dict[str, dict[str, str]]) -> None:
    """Refuse a table whose columns are not ours: a column left out of an insert would silently become zero."""
    for table, names in TABLES.items():
        there = stored.get(table, {})
        missing = [name for name in names if name not in there]
        unknown = [name for name, default in there.items() if name not in names and not default]
        if missing or unknown:
            raise StoreError(
                f"table {database}.{table} was without {missing or 'nothing'} and with unknown {unknown or 'nothing'}: "
                "it was made by another version of this program; use that one, or another --home"
            )


def schema_files() -> dict[int, tuple[str, str]]:
    """Return the numbered schema files: version → (name, text)."""
    folder = resources.files("squeezecore.adapters") / "schema"
    found = {}
    for entry in folder.iterdir():
        if entry.name.endswith(".sql"):
            found[int(entry.name.split("_", 1)[0])] = (entry.name, entry.read_text(encoding="utf-8"))
    return found


def statements(text: str) -> Iterator[str]:
    """Yield the statements of a schema file, without comments.

    >>> list(statements("SELECT 1; SELECT 2; -- one; two"))
    ['SELECT 1', 'SELECT 2']
    """
    for statement in re.sub(r"--[^\n]*", "", text).split(";"):
        if statement.strip():
            yield statement.strip()
