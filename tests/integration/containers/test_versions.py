"""From PostgreSQL 17 to 18 and back, the planner once under Faust's own worker."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from headrace.testing import Addresses, assert_replicated
from headrace.testing.container_parts import ContainerParts, database_on
from tests.integration.containers.rig import ContainerRig

pytestmark = [pytest.mark.containers, pytest.mark.timeout(150)]

TABLES = (
    "CREATE TYPE mood AS ENUM ('calm', 'tense')",
    """CREATE TABLE value (id int PRIMARY KEY, n numeric, f float8, t text COLLATE "C", b bytea, j jsonb, u uuid,
        ts timestamptz, d date, i interval, a int[], net inet, r int4range, m mood, p point)""",
    "CREATE TABLE big (id bigint PRIMARY KEY, body text)",
)
ROWS = """
    INSERT INTO value
    SELECT n, n / 7.0, n / 3.0, 'žluť ' || n, decode(md5(n::text), 'hex'), jsonb_build_object('n', n),
           md5(n::text)::uuid, '2026-01-01'::timestamptz + n * interval '1 minute', '2026-01-01'::date + n,
           n * interval '1 day 2 hours', ARRAY[n, NULL, -n], '10.0.0.1'::inet + n, int4range(n, n + 5),
           (ARRAY['calm', 'tense'])[1 + n % 2]::mood, point(n, -n)
      FROM generate_series({first}, {last}) n
"""
FAUST = {"plan": ["faust", "-A", "topologies.planner", "worker", "--without-web"]}


class Backwards(ContainerParts):
    """The parts of the session with source and target exchanged; it owns none of them."""

    def __init__(self, parts: ContainerParts) -> None:
        self.log_network, self.data_network = parts.log_network, parts.data_network
        self.broker, self.source, self.target = parts.broker, parts.target, parts.source

    def source_database(self) -> AbstractContextManager[Addresses]:
        return database_on(self.source)


def major(rig: ContainerRig, side: str) -> str:
    rows = {"source": rig.source_rows, "target": rig.target_rows}[side]("SHOW server_version_num")
    return str(rows[0][0])[:2]


@pytest.mark.parametrize("way", ["17 to 18", "18 to 17"])
def test_values_survive_the_way_between_major_versions(parts: ContainerParts, way: str) -> None:
    there = way == "17 to 18"
    with ContainerRig(parts if there else Backwards(parts)) as rig:
        assert f"{major(rig, 'source')} to {major(rig, 'target')}" == way
        rig.both(*TABLES)
        rig.source(ROWS.format(first=1, last=300))
        rig.start_roles({"capture": 1, "plan": 1, "apply": 1}, commands=FAUST if there else None)
        rig.source(
            ROWS.format(first=301, last=400),
            "UPDATE value SET n = n * 2, j = j || '{\"more\": true}' WHERE id % 3 = 0",
            "DELETE FROM value WHERE id % 5 = 0",
        )
        rig.source("INSERT INTO big SELECT n, repeat(md5(n::text), 2000) FROM generate_series(1, 100) n")
        rig.source("UPDATE big SET id = -id WHERE id < 10")
        assert_replicated(rig, "public.value", "public.big")
        assert rig.target_rows("SELECT count(*) FROM value") == [(320,)]
