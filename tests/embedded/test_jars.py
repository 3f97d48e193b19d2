"""The jar files of Kafka: locked, fetched whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO
from urllib.error import URLError

import pytest

from headrace.embedded import EmbeddedError
from headrace.embedded.jars import ATTEMPTS_MAX, MIRROR_VARIABLE, Jar, ensure_jars, read_lock, write_lock

CONTENT = b"not really a jar"


def jar(sha256: str = hashlib.sha256(CONTENT).hexdigest()) -> Jar:
    return Jar(coordinate="org.example:thing:1.0", sha256=sha256, size_bytes=len(CONTENT))


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Maven repository on disk; returns the file of `jar()` in it."""
    file = tmp_path / "repository" / "org" / "example" / "thing" / "1.0" / "thing-1.0.jar"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    monkeypatch.setenv(MIRROR_VARIABLE, (tmp_path / "repository").as_uri())
    return file


def test_the_lock_names_one_version_of_each_jar() -> None:
    jars = read_lock()
    modules = [each.coordinate.rpartition(":")[0] for each in jars]
    assert len(set(modules)) == len(jars)
    kafka = {each.coordinate.split(":")[2] for each in jars if each.coordinate.startswith("org.apache.kafka")}
    assert kafka == {"4.4.0"}


def test_the_lock_survives_a_round_trip(tmp_path: Path) -> None:
    write_lock(read_lock(), tmp_path / "lock")
    assert read_lock(tmp_path / "lock") == read_lock()


def test_a_jar_is_fetched_once(tmp_path: Path, mirror: Path) -> None:
    [path] = ensure_jars([jar()], tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    mirror.unlink()
    assert ensure_jars([jar()], tmp_path / "cache") == [path]


def test_a_damaged_jar_is_fetched_again(tmp_path: Path, mirror: Path) -> None:
    [path] = ensure_jars([jar()], tmp_path / "cache")
    path.write_bytes(b"short")
    ensure_jars([jar()], tmp_path / "cache")
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("served", [b"not really a JAR", CONTENT + b" and more", b""])
def test_a_wrong_checksum_leaves_nothing(tmp_path: Path, mirror: Path, served: bytes) -> None:
    mirror.write_bytes(served)
    with pytest.raises(EmbeddedError, match=r"The checksum of thing-1\.0\.jar is wrong"):
        ensure_jars([jar()], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_failed_download_says_what_to_do(tmp_path: Path, mirror: Path) -> None:
    mirror.unlink()
    with pytest.raises(EmbeddedError) as caught:
        ensure_jars([jar()], tmp_path / "cache")
    assert "The download of thing-1.0.jar failed" in str(caught.value)
    assert MIRROR_VARIABLE in caught.value.remedy


def test_a_refused_connection_is_tried_again(tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[str] = []

    def flaky(url: str, timeout: float) -> IO[bytes]:
        attempts.append(url)
        if len(attempts) < ATTEMPTS_MAX:
            raise URLError(ConnectionRefusedError(111, "Connection refused"))
        return mirror.open("rb")

    monkeypatch.setattr("headrace.embedded.jars.ATTEMPT_PAUSE_S", 0.0)
    monkeypatch.setattr("urllib.request.urlopen", flaky)
    [path] = ensure_jars([jar()], tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert len(attempts) == ATTEMPTS_MAX


def test_a_cache_that_cannot_be_made(tmp_path: Path, mirror: Path) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    with pytest.raises(EmbeddedError, match="Cannot make the cache"):
        ensure_jars([jar()], tmp_path / "cache")
