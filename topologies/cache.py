"""The cache role: a node and its HTTP server, until told to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiohttp import web

from pipeline.errors import ConfigError
from topologies.cache_http import http_context, make_app
from topologies.cache_node import TICK_S, CacheNode
from topologies.settings import Settings

log = logging.getLogger(__name__)
DRAIN_S = 2.0


async def serve(settings: Settings, stopping: Callable[[], bool]) -> None:
    """Run the node. Raises ConfigError, RetriableError."""
    if not settings.cached_streams():
        raise ConfigError("no stream has cached tables: name some in `cache` of a stream")
    node = CacheNode(settings)
    await node.start()
    runner = web.AppRunner(make_app(node), access_log=None, shutdown_timeout=DRAIN_S)
    await runner.setup()
    host, _, port = settings.cache.http.rpartition(":")
    try:
        try:
            await web.TCPSite(runner, host, int(port), ssl_context=http_context(settings.cache)).start()
        except OSError as error:
            raise ConfigError(f"cache.http {settings.cache.http}: {error.strerror}; choose another address") from error
        log.info("node %s serves rows at %s", settings.cache.node, settings.cache.http)
        while not stopping():
            node.tick()
            await asyncio.sleep(TICK_S)
    finally:
        await runner.cleanup()
        await node.stop()
