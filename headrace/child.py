"""The end of a child process."""

from __future__ import annotations

import subprocess


def ends_itself(process: subprocess.Popen[str] | subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait for a process that was told to end, and kill one that does not; whether it ended by itself."""
    try:
        process.wait(max(0.0, timeout_s))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True
