"""TLS between nodes: certificates on both sides, signed by the configured authority."""

from __future__ import annotations

import ssl

from topologies.node_settings import CacheSettings


def peer_context(settings: CacheSettings, purpose: ssl.Purpose) -> ssl.SSLContext | None:
    """The context of one side, None when no certificates are configured.

    Names in certificates are not compared with addresses: the token says which node it is.
    """
    if settings.tls_cert is None or settings.tls_key is None or settings.tls_ca is None:
        return None
    context = ssl.create_default_context(purpose, cafile=str(settings.tls_ca))
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context
