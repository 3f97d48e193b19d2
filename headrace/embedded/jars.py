"""Apache Kafka's jar files: named in kafka-jars.lock, fetched once into the user's cache.

`python -m headrace.embedded` fetches them, or rewrites the lock.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO

from headrace.embedded.errors import EmbeddedError, io_error, remedy_for

LOCK_PATH = Path(__file__).with_name("kafka-jars.lock")
MAVEN_CENTRAL = "https://repo.maven.apache.org/maven2"
MIRROR_VARIABLE = "HEADRACE_MAVEN_URL"  # base URL of a Maven repository to use instead
DOWNLOADS_AT_ONCE = 8  # 45 files, 43 MB: the round trips dominate
DOWNLOAD_TIMEOUT_S = 30.0  # without a single byte
ATTEMPTS_MAX = 3  # of one file
ATTEMPT_PAUSE_S = 1.0
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Jar:
    """One line of the lock: a Maven coordinate (group:artifact:version), its checksum and its size."""

    coordinate: str
    sha256: str
    size_bytes: int

    @property
    def file_name(self) -> str:
        """As Maven repositories call the file."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"

    @property
    def url(self) -> str:
        """Where it is fetched from."""
        group, artifact, version = self.coordinate.split(":")
        base = os.environ.get(MIRROR_VARIABLE, MAVEN_CENTRAL).rstrip("/")
        return f"{base}/{group.replace('.', '/')}/{artifact}/{version}/{self.file_name}"


def read_lock(path: Path = LOCK_PATH) -> list[Jar]:
    """The jars that the lock names, in class path order."""
    rows = [line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return [Jar(coordinate=row[0], sha256=row[1], size_bytes=int(row[2])) for row in rows]


def write_lock(jars: Sequence[Jar], path: Path = LOCK_PATH) -> None:
    """Write the lock, sorted."""
    lines = [f"{jar.coordinate} {jar.sha256} {jar.size_bytes}" for jar in jars]
    head = "# Generated (see jars.py): coordinate, SHA-256, size in bytes.\n"
    path.write_text(head + "\n".join(sorted(lines)) + "\n")


def cache_dir() -> Path:
    """Where the jars are kept for every project of this user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "headrace" / "jars"


def ensure_jars(jars: Sequence[Jar], directory: Path) -> list[Path]:
    """The jars as files in `directory`: those that are missing, or of another size, are fetched.

    Safe to run in several processes at once.

    :raises EmbeddedError: a download failed, or its checksum is not the locked one.
    """
    paths = [directory / jar.file_name for jar in jars]
    missing = [(jar, path) for jar, path in zip(jars, paths, strict=True) if not _is_there(jar, path)]
    if missing:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise io_error("make the cache of Kafka's jar files", directory, error) from error
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            list(pool.map(lambda item: _fetch(*item), missing))
    return paths


def _is_there(jar: Jar, path: Path) -> bool:
    try:
        return path.stat().st_size == jar.size_bytes
    except OSError:
        return False


def _fetch(jar: Jar, path: Path) -> None:
    """Download to a name of its own, check, rename: a jar is whole or absent."""
    try:
        handle, fresh = tempfile.mkstemp(prefix=f".{jar.file_name}.", dir=path.parent)
    except OSError as error:
        raise io_error("write to the cache of Kafka's jar files", path.parent, error) from error
    try:
        with os.fdopen(handle, "wb") as out:
            digest = _download(jar, out)
        if digest != jar.sha256:
            raise EmbeddedError(
                f"The checksum of {jar.file_name} is wrong: expected SHA-256 {jar.sha256}, got {digest}.\n"
                f"It came from {jar.url}",
                remedy="Something on the way changes downloads (a proxy or mirror): ask whoever runs it.",
            )
        Path(fresh).chmod(0o644)
        Path(fresh).replace(path)
    finally:
        Path(fresh).unlink(missing_ok=True)


def _download(jar: Jar, out: IO[bytes], attempt: int = 1) -> str:
    """Copy the jar's bytes to `out`; returns their SHA-256. Tries again when the network fails."""
    try:
        return _copy(jar, out)
    except (OSError, http.client.HTTPException) as error:
        if attempt == ATTEMPTS_MAX or not _is_passing(error):
            raise _download_failed(jar, error) from error
    time.sleep(ATTEMPT_PAUSE_S)
    return _download(jar, out, attempt + 1)


def _copy(jar: Jar, out: IO[bytes]) -> str:
    out.seek(0)
    out.truncate()
    digest, room = hashlib.sha256(), jar.size_bytes + 1  # one byte too many is seen in the checksum
    # Any scheme will do, a file: mirror too: the checksum is what is trusted.
    with urllib.request.urlopen(jar.url, timeout=DOWNLOAD_TIMEOUT_S) as answer:  # noqa: S310
        while chunk := answer.read(min(CHUNK_BYTES, room)):
            digest.update(chunk)
            out.write(chunk)
            room -= len(chunk)
    return digest.hexdigest()


def _is_passing(error: Exception) -> bool:
    """Whether trying again may help: a broken or refused connection, a server that is overloaded."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= HTTPStatus.INTERNAL_SERVER_ERROR or error.code == HTTPStatus.TOO_MANY_REQUESTS
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(reason, (ConnectionError, TimeoutError, http.client.HTTPException))


def _download_failed(jar: Jar, error: Exception) -> EmbeddedError:
    remedy = (
        f"Check the network, or set {MIRROR_VARIABLE} to the base URL of a Maven repository. "
        f"The jars are needed once: they stay in {cache_dir()}."
    )
    return EmbeddedError(
        f"The download of {jar.file_name} failed: {error}.\nIt would come from {jar.url}",
        remedy=remedy_for(str(error), remedy),
    )
