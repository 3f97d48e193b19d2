"""Rows over HTTP: `GET /v1/rows/{stream}/{table}/{key}?min_position=`, `POST /v1/checks/{stream}`, `GET /v1/status`.

**Guarantee:** status 200 answers are no older than `min_position`; what can't be answered so is refused.
"""

from __future__ import annotations

import hmac
import logging
import math
import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from aiohttp import web
from aiohttp.typedefs import Middleware

from connectors.errors import KeyTextError, RefusedError
from pipeline.errors import HeadraceError
from pipeline.fusion.statistics import BatchStatistics
from topologies.cache_checks import KEY_PARTS_MAX, CheckError, check, parse_check, table_name
from topologies.cache_node import CacheNode
from topologies.cache_reader import NotYetError
from topologies.node_settings import CacheSettings

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(node: CacheNode) -> web.Application:
    """The HTTP application of a node."""
    app = web.Application(middlewares=[_guard(node.settings.cache)])

    async def rows(request: web.Request) -> web.StreamResponse:
        return await _rows(node, request)

    async def checks(request: web.Request) -> web.StreamResponse:
        asked = parse_check(await request.read())
        wait_s = node.settings.cache.wait_s if asked.wait_s is None else min(asked.wait_s, node.settings.cache.wait_s)
        return web.json_response(await check(node, request.match_info["stream"], asked, wait_s))

    async def status(request: web.Request) -> web.StreamResponse:
        del request
        return web.json_response(node_status(node))

    app.router.add_get("/v1/rows/{stream}/{table}/{key:.+}", rows)
    app.router.add_post("/v1/checks/{stream}", checks)
    app.router.add_get("/v1/status", status)
    return app


def http_context(settings: CacheSettings) -> ssl.SSLContext | None:
    """TLS for readers, when certificates are configured."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    return context


def _guard(settings: CacheSettings) -> Middleware:
    """Ask for the token, and turn errors into answers."""
    wanted = None if settings.token is None else f"Bearer {settings.token.get_secret_value()}".encode()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        shown = request.headers.get("Authorization", "").encode()
        if wanted is not None and not hmac.compare_digest(shown, wanted):
            return _refusal(401, "the token is missing or wrong: Authorization: Bearer TOKEN")
        try:
            return await handler(request)
        except CheckError as error:
            return _refusal(400, str(error))
        except KeyTextError as error:
            return _refusal(404, str(error))
        except NotYetError as error:
            return _refusal(503, str(error), {"Retry-After": "1"})
        except (HeadraceError, RefusedError) as error:
            log.warning("%s", error)
            return _refusal(503, str(error), {"Retry-After": "1"})

    return guard


def _refusal(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": text}, status=status, headers=headers)


async def _rows(node: CacheNode, request: web.Request) -> web.StreamResponse:
    """One row. The key's columns are path segments of their own, each percent-encoded."""
    pieces = request.rel_url.raw_path.split("/")[5:]
    if len(pieces) > KEY_PARTS_MAX:
        return _refusal(400, f"{len(pieces)} key columns")
    try:
        position = int(request.query.get("min_position", "0"))
        wait_s = _seconds(request.query.get("wait_s", str(node.settings.cache.wait_s)))
    except ValueError:
        return _refusal(400, "min_position is an integer, wait_s a number of seconds")
    key = [unquote(piece) for piece in pieces]
    wait_s = min(max(wait_s, 0.0), node.settings.cache.wait_s)
    name = table_name(request.match_info["table"])
    answer = await node.read(request.match_info["stream"], name, key, position, wait_s)
    return web.json_response(answer.said())


def _seconds(text: str) -> float:
    """A time to wait. Raises ValueError, also for "nan", which is a number to Python and never passes."""
    seconds = float(text)
    if math.isnan(seconds):
        raise ValueError(text)
    return seconds


def node_status(node: CacheNode) -> dict[str, object]:
    """What the node is and has done."""
    streams = {}
    for name, reader in node.readers.items():
        cache = reader.follower.cache
        streams[name] = {
            "generation": cache.generation, "visible": cache.visible, "reached": cache.reached,
            "current": cache.current, "pending_bytes": cache.pending_bytes, "restarts": reader.follower.restarts,
            "warmed_blocks": reader.follower.warmed,
            "not_cached": {".".join(table): why for table, why in cache.refused_tables.items()},
        }  # fmt: skip
    return {
        "node": node.members.node, "nodes": node.members.nodes, "epoch": node.members.epoch, "streams": streams,
        "blocks": len(node.store), "memory_bytes": node.store.size_bytes, "evicted": node.store.evicted,
        "transfers": node.exchange.transfers.routes.status(),
        "counts": dict(node.counts), "refused": dict(node.exchange.arrivals.refused),
        "links": {peer: _link_status(link.batcher.statistics) for peer, link in node.exchange.links.items()},
    }  # fmt: skip


def _link_status(statistics: BatchStatistics) -> dict[str, object]:
    classes = {
        priority.name.lower(): {
            "sent": counts.sent, "refused": counts.refused, "p99_s": counts.latency.percentile_s(0.99),
        }
        for priority, counts in statistics.classes.items()
    }  # fmt: skip
    return {
        "frames": statistics.frames, "messages": statistics.messages, "bytes": statistics.frame_bytes,
        "compression": round(statistics.compression, 2), "utilisation": round(statistics.utilisation, 3),
        "estimated_gain": round(statistics.estimated_gain, 2), "measured_gain": statistics.measured_gain,
        "priorities": classes,
    }  # fmt: skip
