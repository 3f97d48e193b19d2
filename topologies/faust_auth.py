"""`kafka.options` as what Faust takes. Source: Faust, "Authentication"."""

from __future__ import annotations

from collections.abc import Mapping

from faust import SASLCredentials, SSLCredentials
from faust.types.auth import CredentialsT

from topologies.aiokafka_auth import aiokafka_auth
from topologies.settings import Scalar


def faust_credentials(options: Mapping[str, Scalar]) -> CredentialsT | None:
    """The credentials for `faust.App(broker_credentials=...)`; None for a plain connection.

    Raises ConfigError for what the planner's client does not support.
    """
    auth = aiokafka_auth(options)
    context = auth.get("ssl_context")
    if "sasl_mechanism" not in auth:
        return SSLCredentials(context) if context is not None else None
    return SASLCredentials(
        username=auth["sasl_plain_username"], password=auth["sasl_plain_password"], mechanism=auth["sasl_mechanism"],
        ssl_context=context,
    )  # fmt: skip
