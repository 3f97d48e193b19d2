"""Alerts by HTTP: a level change as one JSON POST, delivered by a thread of its own.

**Guarantee:** none; the monitor never waits for it. A change that can't be delivered is logged and dropped.
The URL's path, query and user part are secret and appear in no log.
"""

from __future__ import annotations

import http.client
import json
import logging
import queue
import threading
from base64 import b64encode
from collections.abc import Sequence
from urllib.parse import SplitResult, unquote, urlsplit

log = logging.getLogger(__name__)
QUEUED_MAX = 100
TIMEOUT_S = 5.0
RETRY_S = (0.5, 2.0, 10.0)  # pauses before the second, third and fourth try; then the change is dropped
STOP_S = 2.0


class Webhook:
    """Posts alerts in order. `retry_s` holds the pauses between the tries of one alert."""

    def __init__(self, url: str, retry_s: Sequence[float] = RETRY_S) -> None:
        self._url = urlsplit(url)
        self._retry_s = retry_s
        self._queue: queue.Queue[dict[str, object]] = queue.Queue(QUEUED_MAX)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    @property
    def place(self) -> str:
        """Where alerts go, without the secret parts."""
        return f"{self._url.scheme}://{self._url.hostname}" + (f":{self._url.port}" if self._url.port else "")

    def send(self, alert: dict[str, object]) -> None:
        """Queue an alert; never waits."""
        try:
            self._queue.put_nowait(alert)
        except queue.Full:
            log.warning("webhook %s: %d alerts are waiting already; dropped: %s", self.place, QUEUED_MAX, alert["text"])

    def close(self) -> None:
        """Give up what was not delivered yet."""
        self._stopping.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                alert = self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
            self._deliver(alert)

    def _deliver(self, alert: dict[str, object]) -> None:
        problem = ""
        for pause_s in (0.0, *self._retry_s):
            if self._stopping.wait(pause_s):
                break
            problem = _post(self._url, json.dumps(alert).encode())
            if not problem:
                return
        log.warning("webhook %s: not delivered (%s): %s", self.place, problem or "stopping", alert["text"])


def _post(url: SplitResult, body: bytes) -> str:
    """Post once; what went wrong, or nothing. Redirects are not followed."""
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=TIMEOUT_S)
    headers = {"Content-Type": "application/json", "User-Agent": "headrace"}
    if url.username:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    try:
        connection.request("POST", (url.path or "/") + (f"?{url.query}" if url.query else ""), body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__  # its text may name the whole URL
    finally:
        connection.close()
    return "" if 200 <= status < 300 else f"HTTP status {status}"
