"""Poison under `on_error = "park"`: kept with what depends on it, replayed in its place, whatever is killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from connectors.postgres.rows import PostgresRows
from headrace.cli import app
from pipeline.errors import ConfigError
from schemas.change_batch_codec import decode_batch
from schemas.dead_letter import DeadLetter, decode_dead_letter
from tests.support.fixtures import MakeRig
from tests.support.rig import ROLES, Rig
from tests.support.topics import read_topic
from tests.support.writing import commit_each, commit_in_one_window
from topologies.topics import KEYED_PARTITIONS

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(150)]

TABLES = ("CREATE TABLE t (id int PRIMARY KEY, value int, note text)", "CREATE TABLE log (n int)")
REFUSED = 13
CONSTRAINT = f"ALTER TABLE t ADD CONSTRAINT unlucky CHECK (value <> {REFUSED})"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def letters(rig: Rig) -> list[dict[str, object]]:
    code, output = run("dead-letters", "list", "-c", str(rig.config_path), "--json")
    assert code == 0
    found: list[dict[str, object]] = json.loads(output)
    return found


def in_topic(rig: Rig) -> list[DeadLetter]:
    records = [each for n in range(KEYED_PARTITIONS) for each in read_topic(rig.settings, "dead-letters", n)]
    return sorted(map(decode_dead_letter, records), key=lambda letter: letter.position)


def start(make_rig: MakeRig) -> Rig:
    rig = make_rig(target={"on_error": "park"})
    rig.both(*TABLES)
    rig.source("INSERT INTO t SELECT n, 0 FROM generate_series(1, 20) n")
    with rig.target_connection() as conn:
        conn.execute(CONSTRAINT)
    rig.start()
    rig.wait_until_equal()
    return rig


def test_what_is_refused_is_parked_with_all_that_depends_on_it(make_rig: MakeRig, tmp_path: Path) -> None:
    rig = start(make_rig)
    commit_in_one_window(
        rig,
        "WITH w AS (UPDATE t SET value = 13 WHERE id = 1) INSERT INTO log VALUES (1)",
        "WITH w AS (UPDATE t SET note = 'x' WHERE id = 1) INSERT INTO t VALUES (100, 5)",
        "UPDATE t SET value = 3 WHERE id = 3",
    )
    rig.wait_until_applied()
    commit_each(rig, "UPDATE t SET value = 6 WHERE id = 100", "UPDATE t SET value = 4 WHERE id = 4")
    rig.wait_until_applied()
    assert rig.target_rows("SELECT id, value FROM t WHERE value <> 0 ORDER BY id") == [(3, 3), (4, 4)]
    assert rig.target_rows("SELECT * FROM log") == []
    first, second, third = letters(rig)
    assert (first["sqlstate"], first["tables"]) == ("23514", ["public.log", "public.t"])
    assert (second["behind"], second["sqlstate"]) == ([first["position"]], "HR004")
    assert third["behind"] == [second["position"]]
    rig.until(lambda: len(in_topic(rig)) == 3, "the topic has the letters")
    assert [letter.position for letter in in_topic(rig)] == [each["position"] for each in (first, second, third)]
    assert decode_batch(in_topic(rig)[0].batch).rows() == 2

    code, shown = run(
        "dead-letters", "show", str(second["position"]), "-c", str(rig.config_path), "--raw", str(tmp_path / "raw")
    )
    assert code == 0
    assert "UPDATE public.t, where id is 1\n      id     1\n      value  13\n      note   x\n" in shown
    assert f"waits for:   the dead letters at {first['position']}\n" in shown
    assert decode_batch((tmp_path / "raw").read_bytes()).last_position == second["position"]

    code, output = run("dead-letters", "replay", "-c", str(rig.config_path))
    assert code == 1
    assert "refused again" in output
    assert "lane" not in output
    assert output.count("waits for the letters before it") == 2
    with rig.target_connection() as conn:
        conn.execute("ALTER TABLE t DROP CONSTRAINT unlucky")
    code, output = run("dead-letters", "replay", "-c", str(rig.config_path))
    assert (code, letters(rig)) == (0, []), output
    commit_each(rig, "UPDATE t SET value = 99 WHERE id IN (1, 100)")
    rig.wait_until_equal()
    assert letters(rig) == []
    assert rig.roles["apply"].codes == rig.roles["plan"].codes == []


def test_what_is_discarded_is_gone_and_holds_nothing_back(make_rig: MakeRig) -> None:
    rig = start(make_rig)
    commit_each(rig, "UPDATE t SET value = 13 WHERE id = 1", "UPDATE t SET note = 'x' WHERE id = 1")
    rig.wait_until_applied()
    assert len(letters(rig)) == 2
    with pytest.raises(ConfigError, match="say which letters"):
        run("dead-letters", "discard", "-c", str(rig.config_path))
    last = int(str(letters(rig)[-1]["position"]))
    assert run("dead-letters", "discard", "-c", str(rig.config_path), "--all")[0] == 0
    rows = PostgresRows(rig.stream, rig.config.target_settings())
    assert rows.view()[0].discarded == last, "caches must not read them again in the log"
    rows.close()
    commit_each(rig, "UPDATE t SET value = 2 WHERE id = 1")
    rig.wait_until_equal()
    assert letters(rig) == []


def test_parking_survives_kills(make_rig: MakeRig) -> None:
    rig = start(make_rig)
    for number in range(3):
        commit_each(
            rig,
            *(
                f"WITH w AS (UPDATE t SET value = {13 if n % 9 == 0 else n} WHERE id = {n % 20 + 1})"
                f" INSERT INTO log VALUES ({number * 100 + n})"
                for n in range(100)
            ),
        )
        rig.kill(*ROLES)
    rig.wait_until_applied()
    parked = letters(rig)
    applied = rig.target_rows("SELECT count(*), count(DISTINCT n) FROM log")
    assert applied == [(300 - len(parked), 300 - len(parked))]
    positions = {letter["position"] for letter in parked}
    rig.until(lambda: {letter.position for letter in in_topic(rig)} == positions, "the topic has the letters")
    with rig.target_connection() as conn:
        conn.execute("ALTER TABLE t DROP CONSTRAINT unlucky")
    code, output = run("dead-letters", "replay", "-c", str(rig.config_path))
    assert code == 0, output
    rig.wait_until_equal()
    assert rig.target_rows("SELECT count(*), count(DISTINCT n) FROM log") == [(300, 300)]
