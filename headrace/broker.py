"""`headrace kafka`: the embedded broker alone, in the foreground."""

from __future__ import annotations

import logging
from pathlib import Path

from headrace.configuration import read_settings
from headrace.console import EX_FAILURE, EX_OK, setup_logging
from headrace.embedded import EmbeddedKafka
from headrace.stopping import StopFlag

log = logging.getLogger(__name__)
POLL_S = 0.5


def serve_broker(config: Path, *, verbose: bool) -> int:
    """Run the broker of `config`'s data directory until stopped; returns the exit code.

    Raises ConfigError, EmbeddedError (also when one runs there already).
    """
    setup_logging("kafka", verbose=verbose)
    stop = StopFlag()
    stop.install()
    with EmbeddedKafka(read_settings(config).kafka.data_dir) as broker:
        log.info("broker at %s, pid %d, data in %s", broker.bootstrap_servers, broker.pid, broker.home)
        while not stop.wait(POLL_S):
            if not broker.alive:
                log.error("the broker ended; its log: %s", broker.log_path)
                return EX_FAILURE
    return EX_OK
