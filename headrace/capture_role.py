"""The role `capture`: a thread a stream, begun again after what may pass."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from headrace.console import EXPECTED_ERRORS
from headrace.stopping import StopFlag
from pipeline.errors import RetriableError
from topologies.settings import Settings
from topologies.stopped_streams import StoppedStreams
from topologies.stream_settings import StreamConfig

log = logging.getLogger(__name__)
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
HEALTHY_S = 60.0  # a capture that has run for so long begins again with the shortest pause
POLL_S = 0.1


class CaptureThread(threading.Thread):
    """One stream's capture, begun again after retriable errors; `fatal` is the error that ended it."""

    def __init__(self, settings: Settings, stream: StreamConfig, stopping: Callable[[], bool]) -> None:
        super().__init__(name=f"capture {stream.name}", daemon=True)
        self.fatal: Exception | None = None
        self._settings, self._config = settings, stream
        self.stream = stream.name
        self._stopping = stopping

    def run(self) -> None:
        """Capture until stopped or failed."""
        from topologies.capture import Capture  # a process that does not capture need not import it

        attempt = 0
        while not self._stopping():
            started_s = time.monotonic()
            try:
                Capture(self._settings, self._config, self._stopping).run()
            except RetriableError as error:
                attempt = 0 if time.monotonic() - started_s >= HEALTHY_S else attempt
                self._pause(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)], error)
                attempt += 1
            except EXPECTED_ERRORS as error:
                self.fatal = error
                return
            except Exception as error:
                log.exception("stream %s: capture failed; this is a bug", self.stream)
                self.fatal = error
                return

    def _pause(self, pause_s: float, error: Exception) -> None:
        text = str(error) if self.stream in str(error) else f"stream {self.stream}: {error}"
        log.warning("%s; trying again in %.1f s", text, pause_s)
        end_s = time.monotonic() + pause_s
        while time.monotonic() < end_s and not self._stopping():
            time.sleep(POLL_S)


def capture(settings: Settings, stop: StopFlag) -> None:
    """Capture all streams until stopped. Raises what ended the first that failed."""
    threads = [CaptureThread(settings, stream, stop.is_set) for stream in settings.streams]
    stopped = StoppedStreams(stream.name for stream in settings.streams)
    for thread in threads:
        thread.start()
    try:
        while not stop.wait(POLL_S):
            for thread in threads:
                if thread.fatal is not None:
                    stopped.note(thread.stream, thread.fatal)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    stopped.raise_first()
