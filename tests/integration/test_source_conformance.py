"""The contract of a source, held by the connector for PostgreSQL and by the example for SQLite."""

from __future__ import annotations

import importlib
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from connectors.base import Connector
from connectors.postgres.admin import PostgresSourceAdmin
from connectors.postgres.source import PostgresSource
from connectors.settings import SourceSettings
from connectors.source import Source
from headrace.testing.conformance import SourceConformance

EXAMPLE = Path(__file__).parents[2] / "examples" / "sqlite-source"


@pytest.mark.integration
class TestPostgres(SourceConformance):
    """`connectors.postgres`."""

    @pytest.fixture(autouse=True)
    def database(self, source_db: str) -> Iterator[None]:
        self.stream = f"c{uuid.uuid4().hex[:10]}"
        self.settings = SourceSettings(source_db, ("public.item",))
        self.write("CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL)")
        yield
        PostgresSourceAdmin(self.stream, self.settings).drop()

    def source(self) -> Source:
        return PostgresSource(self.stream, self.settings)

    def write(self, *statements: str) -> None:
        with psycopg.connect(self.settings.dsn) as conn:
            for statement in statements:
                conn.execute(statement.encode())


class TestSqlite(SourceConformance):
    """The example."""

    @pytest.fixture(autouse=True)
    def database(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(EXAMPLE))
        connector: Connector = importlib.import_module("headrace_sqlite").CONNECTOR
        assert connector.source is not None
        self.make = connector.source
        self.path = tmp_path / "shop.db"
        self.path.touch()
        self.write("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")

    def source(self) -> Source:
        return self.make("shop", SourceSettings(f"sqlite:///{self.path}", ("public.item",)))

    def write(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path)) as conn, conn:
            for statement in statements:
                conn.execute(statement)
