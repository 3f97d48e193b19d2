"""TLS and SASL options of librdkafka as Faust's and aiokafka's."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from faust import SASLCredentials, SSLCredentials

from pipeline.errors import ConfigError
from topologies.aiokafka_auth import aiokafka_auth
from topologies.faust_auth import faust_credentials
from topologies.settings import Scalar

SASL = {"sasl.mechanism": "scram-sha-512", "sasl.username": "me", "sasl.password": "secret"}


def test_a_plain_connection_needs_none() -> None:
    assert faust_credentials({}) is None
    assert aiokafka_auth({"socket.timeout.ms": 1000}) == {"security_protocol": "PLAINTEXT"}


def test_sasl_over_tls() -> None:
    found = aiokafka_auth({"security.protocol": "sasl_ssl", **SASL})
    assert (found["security_protocol"], found["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-512")
    assert found["ssl_context"].check_hostname
    credentials = faust_credentials({"security.protocol": "sasl_ssl", **SASL})
    assert isinstance(credentials, SASLCredentials)
    assert (credentials.username, credentials.protocol.value) == ("me", "SASL_SSL")
    assert "secret" not in repr(credentials)


def test_tls_without_verification_says_so_in_the_options() -> None:
    options: dict[str, Scalar] = {"security.protocol": "SSL", "enable.ssl.certificate.verification": False}
    assert aiokafka_auth(options)["ssl_context"].verify_mode is ssl.CERT_NONE
    assert isinstance(faust_credentials(options), SSLCredentials)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"security.protocol": "KERBEROS"}, "not one of PLAINTEXT"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"}, "the planner's client supports"),
        ({"security.protocol": "SSL", "ssl.ca.location": str(Path("/nowhere/ca.pem"))}, "TLS files can't be used"),
    ],
)
def test_what_is_not_supported_is_refused(options: dict[str, Scalar], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        aiokafka_auth(options)
