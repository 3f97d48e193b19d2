"""How the system user that runs PostgreSQL for root is let through closed directories."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.embedded import EmbeddedError
from headrace.embedded.account import Account, server_account

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")

NOBODY = Account(uid=65534, gid=65534)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A directory that only its owner may enter, in one that everybody may."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@as_root
def test_a_closed_directory_is_opened_to_the_group_only(closed: Path) -> None:
    NOBODY.let_reach(closed / "data")
    info = closed.stat()
    assert (info.st_uid, info.st_gid) == (0, NOBODY.gid)
    assert stat.S_IMODE(info.st_mode) == 0o710


@as_root
def test_a_directory_that_may_be_entered_stays_as_it_is(closed: Path) -> None:
    closed.chmod(0o711)
    NOBODY.let_reach(closed / "data")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o711


@as_root
def test_a_directory_shared_with_another_group_is_not_touched(closed: Path) -> None:
    closed.chmod(0o750)
    with pytest.raises(EmbeddedError, match="cannot enter") as caught:
        NOBODY.let_reach(closed / "data")
    assert f"chmod o+x {closed}" in caught.value.remedy
    assert closed.stat().st_gid != NOBODY.gid


@pytest.mark.skipif(os.geteuid() == 0, reason="for an ordinary user")
def test_an_ordinary_user_runs_postgresql_itself() -> None:
    assert server_account() is None
