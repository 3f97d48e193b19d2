"""`headrace resync --table` under load and under kills: the table's rows are replaced, everything else arrives once."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console
from typer.testing import CliRunner

from headrace.cli import app
from headrace.status import StreamStatus, TableCopyStatus, stream_status
from headrace.status_text import status_table
from pipeline.errors import ConfigError
from tests.support.bank import BankLoad, create_bank
from tests.support.fixtures import MakeRig
from tests.support.rig import EX_OPERATOR, ROLES, Rig
from tests.support.writing import commit_each

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(150)]


def resync(rig: Rig, *tables: str, yes: bool = True) -> str:
    """Run the command; returns what it says. Raises what it raises."""
    arguments = ["resync", "-c", str(rig.config_path), "--stream", rig.stream]
    arguments += [word for table in tables for word in ("--table", table)] + ["--yes"] * yes
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, ConfigError):
        raise result.exception
    assert result.exit_code == (0 if yes else 1), result.output
    return result.output


def wanted(rig: Rig) -> list[tuple[object, ...]]:
    return rig.target_rows("SELECT table_name FROM headrace.table_copy ORDER BY 1")


def shown(status: StreamStatus) -> str:
    """What `headrace status` prints."""
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(status_table([status]))
    return console.export_text()


def damage(rig: Rig) -> None:
    """What somebody may do to a target: rows lost, rows changed, rows of their own."""
    with rig.target_connection() as conn:
        conn.execute("DELETE FROM account WHERE id % 3 = 0")
        conn.execute("UPDATE account SET balance = 7 WHERE id % 3 = 1")
        conn.execute("INSERT INTO account SELECT max(id) + 1, 0, 0 FROM account")


def test_a_stopped_stream_goes_on_with_a_table_copied_anew(make_rig: MakeRig) -> None:
    rig = make_rig()
    create_bank(rig)
    rig.both("CREATE TABLE filled (id int PRIMARY KEY, note text)", 'CREATE TABLE "odd.Name" (n int)')
    rig.source('INSERT INTO "odd.Name" SELECT generate_series(1, 50)')
    rig.start()
    rig.wait_until_equal()
    rig.source("DROP TABLE filled")
    rig.source("CREATE TABLE filled (id int PRIMARY KEY, note text)", "INSERT INTO filled VALUES (1, 'a'), (2, NULL)")
    rig.wait_for_log("capture", "resync")
    assert f"--stream {rig.stream} --table public.filled --yes" in rig.log("capture")
    damage(rig)
    with BankLoad(rig) as load:
        # An account that the target lacks is changed, and the stream stops.
        assert {rig.wait_for_end(name) for name in ("apply", "plan")} == {EX_OPERATOR}
        with pytest.raises(ConfigError, match=r"no table public\.absent; its tables on the target: .*public\.account"):
            resync(rig, "public.absent")
        assert "REPLACES all rows" in resync(rig, "public.account", yes=False)
        assert wanted(rig) == []
        resync(rig, "public.account", "public.filled", "public.odd.Name")
        assert wanted(rig) == [("account",), ("filled",), ("odd.Name",)]
        names = ("public.account", "public.filled", "public.odd.Name")
        status = stream_status(rig.settings, rig.config)
        assert status.table_copies == tuple(TableCopyStatus(name, "requested", None, "") for name in names)
        assert "public.filled: requested" in shown(status)
        rig.source("UPDATE filled SET note = 'b' WHERE id = 2")
        rig.start()
        rig.until(lambda: wanted(rig) == [], "the tables are copied")
        load.wait_for_transfers(100)
        resync(rig, "public.account")  # a reader of the target notices nothing
        rig.until(lambda: wanted(rig) == [], "it is copied again")
        said = rig.log("plan").replace("the epoch is closed: ", "")  # by a lane, before the planner has looked
        assert "planning again: tables are to be copied anew: public.account" in said
        load.wait_for_transfers(100)
        commit_each(rig, "UPDATE filled SET note = 'c' WHERE id = 1", 'INSERT INTO "odd.Name" VALUES (0)')
        load.finish()
    assert rig.target_rows("SELECT * FROM filled ORDER BY id") == [(1, "c"), (2, "b")]
    assert rig.roles["apply"].codes == [EX_OPERATOR], "nothing was refused after the start"


def test_no_table_is_copied_that_foreign_keys_of_the_target_hold(make_rig: MakeRig) -> None:
    rig = make_rig(target={"session_replication_role": "origin"})
    rig.both("CREATE TABLE parent (id int PRIMARY KEY)", "CREATE TABLE child (id int PRIMARY KEY REFERENCES parent)")
    with pytest.raises(ConfigError, match=r"public\.child references public\.parent"):
        resync(rig, "public.parent")
    with pytest.raises(ConfigError, match="its snapshot has not begun yet"):
        resync(rig, "public.child")


@pytest.mark.long
@pytest.mark.timeout(280)
def test_kills_in_the_middle_of_a_copy(make_rig: MakeRig) -> None:
    rig = make_rig(source={"batch_bytes_max": 65536})
    create_bank(rig)
    rig.both("CREATE TABLE big (id int PRIMARY KEY, n int NOT NULL, filler text NOT NULL)")
    rig.source("INSERT INTO big SELECT n, 0, repeat(md5(n::text), 30) FROM generate_series(1, 40000) n")
    rig.start()
    rig.wait_until_equal(timeout_s=100)
    victims = itertools.cycle([("capture",), ("apply",), ("plan",), ROLES])
    with BankLoad(rig) as load:
        load.wait_for_transfers(20)
        for number in range(1, 9):
            with rig.target_connection() as conn:
                conn.execute("DELETE FROM big WHERE id % 5 = 0")
            copies = rig.log("capture").count("copying public.big anew")
            resync(rig, "public.big")
            rig.until(lambda n=copies: rig.log("capture").count("copying public.big anew") > n, "it is copied")  # type: ignore[misc]
            rig.source(f"UPDATE big SET n = {number} WHERE id % 100 = {number}")
            rig.kill(*next(victims))
            rig.source(f"UPDATE big SET id = -id WHERE id = {number * 7}")
            rig.until(lambda: wanted(rig) == [], "the copy is applied", timeout_s=100)
            load.wait_for_transfers(20)
        load.finish()
    assert all(EX_OPERATOR not in role.codes for role in rig.roles.values())
