"""Servers that die, or freeze, under load."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from headrace.embedded import EmbeddedKafka, EmbeddedPostgres
from tests.support.bank import BankLoad, create_bank
from tests.support.fixtures import MakeRig
from tests.support.rig import Rig

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(150)]

BETWEEN = 40  # transfers that reach the target between two faults
FROZEN_S = 30.0  # beyond session timeouts, within those of deliveries


def kill_again_and_again(rig: Rig, server: EmbeddedKafka | EmbeddedPostgres, rounds: int) -> None:
    """Under load, kill the server and start it again; at the end everything must have arrived once."""
    create_bank(rig)
    rig.start()
    rig.wait_until_equal()
    with BankLoad(rig) as load:
        for _ in range(rounds):
            load.wait_for_transfers(BETWEEN)
            server.kill()
            rig.faults[f"kill -9 {server.title}"] += 1
            server.start()
        load.wait_for_transfers(BETWEEN)
        load.finish()


def test_the_target_is_killed(make_rig: MakeRig, own_pg: EmbeddedPostgres) -> None:
    kill_again_and_again(make_rig(target_dsn=own_pg.dsn()), own_pg, rounds=2)


def test_the_source_is_killed(make_rig: MakeRig, own_pg: EmbeddedPostgres) -> None:
    kill_again_and_again(make_rig(source_dsn=own_pg.dsn()), own_pg, rounds=3)


def test_the_broker_is_killed(make_rig: MakeRig, own_dir: Path) -> None:
    with EmbeddedKafka(own_dir) as broker:
        kill_again_and_again(make_rig(servers=broker.bootstrap_servers), broker, rounds=1)


@pytest.mark.long
def test_the_broker_is_killed_again_and_again(make_rig: MakeRig, own_dir: Path) -> None:
    with EmbeddedKafka(own_dir) as broker:
        kill_again_and_again(make_rig(servers=broker.bootstrap_servers), broker, rounds=3)


@pytest.mark.long
def test_the_broker_is_frozen(make_rig: MakeRig, own_dir: Path) -> None:
    """Connections stay open and nothing answers: what a network that swallows everything looks like."""
    with EmbeddedKafka(own_dir) as broker:
        rig = make_rig(servers=broker.bootstrap_servers)
        create_bank(rig)
        rig.start()
        rig.wait_until_equal()
        with BankLoad(rig) as load:
            load.wait_for_transfers(BETWEEN)
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                rig.faults["SIGSTOP broker"] += 1
                time.sleep(FROZEN_S)
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            load.wait_for_transfers(BETWEEN)
            load.finish()
