"""`kafka.options`, written for librdkafka, as what aiokafka's clients take: TLS and SASL.

Source: librdkafka, CONFIGURATION.md; aiokafka, "SSL and SASL".
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from pipeline.errors import ConfigError
from topologies.settings import Scalar

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


def aiokafka_auth(options: Mapping[str, Scalar]) -> dict[str, Any]:
    """Keyword arguments of a client. Raises ConfigError for what aiokafka does not support."""
    protocol = str(options.get("security.protocol", "PLAINTEXT")).upper()
    if protocol not in PROTOCOLS:
        raise ConfigError(f"kafka.options: security.protocol is {protocol}, not one of {', '.join(PROTOCOLS)}")
    found: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        found["ssl_context"] = _context(options)
    if protocol.startswith("SASL"):
        mechanism = str(options.get("sasl.mechanism", options.get("sasl.mechanisms", ""))).upper()
        if mechanism not in MECHANISMS:
            raise ConfigError(
                f"kafka.options: sasl.mechanism is {mechanism or 'missing'}; the planner's client supports "
                f"{', '.join(MECHANISMS)}"
            )
        found["sasl_mechanism"] = mechanism
        found["sasl_plain_username"] = str(options.get("sasl.username", ""))
        found["sasl_plain_password"] = str(options.get("sasl.password", ""))
    return found


def _context(options: Mapping[str, Scalar]) -> ssl.SSLContext:
    def text(name: str) -> str | None:
        return str(options[name]) if name in options else None

    try:
        context = ssl.create_default_context(cafile=text("ssl.ca.location"))
        certificate = text("ssl.certificate.location")
        if certificate is not None:
            context.load_cert_chain(certificate, text("ssl.key.location"), text("ssl.key.password"))
    except OSError as error:  # of files, and of TLS
        raise ConfigError(f"kafka.options: the TLS files can't be used: {error}") from error
    if text("ssl.endpoint.identification.algorithm") == "none":
        context.check_hostname = False
    if str(options.get("enable.ssl.certificate.verification", "true")).lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
