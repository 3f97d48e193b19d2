"""Parts of the configuration model: the base of its sections, secrets, priorities, lag levels, the monitor."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, model_validator

from connectors.base import load_connector
from pipeline.errors import ConfigError
from pipeline.levels import Thresholds
from pipeline.priorities import CLASSES

NAME = r"^[a-z][a-z0-9_]{0,39}$"  # of a stream or a node: part of names in databases and in Kafka


class Section(BaseModel):
    """A table of the file: unknown keys are errors, values never show in messages."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _check_dsn(value: SecretStr, info: ValidationInfo) -> SecretStr:
    """What is right the section's connector knows; one that is not installed is told of when it is used."""
    try:
        check = load_connector(info.data["connector"]).check_dsn
    except (ConfigError, KeyError):
        return value
    if check is not None:
        check(value.get_secret_value())
    return value


Dsn = Annotated[SecretStr, AfterValidator(_check_dsn)]


def _check_url(value: SecretStr) -> SecretStr:
    try:
        url = urlsplit(value.get_secret_value())
        right = url.scheme in ("http", "https") and url.hostname and (url.port is None or url.port)
    except ValueError:
        right = False
    if not right:
        raise ValueError("is no URL; write https://host/path")
    return value


Url = Annotated[SecretStr, AfterValidator(_check_url)]


class PriorityConfig(Section):
    """`[streams.target.priorities]`: classes of tables, by shell-style patterns on `schema.table`."""

    critical: tuple[str, ...] = Field(
        default=(), description="tables whose independent transactions take a lane of their own"
    )
    high: tuple[str, ...] = Field(default=(), description="the same, behind `critical`")
    normal: tuple[str, ...] = Field(
        default=(), description="exceptions from `low`; every table without a class is normal too"
    )
    low: tuple[str, ...] = Field(default=(), description="tables that may wait for all others, though never for long")

    def patterns(self) -> dict[str, tuple[str, ...]]:
        """Class -> patterns."""
        return {name: getattr(self, name) for name in CLASSES}


class LagConfig(Section):
    """`[streams.lag]`: when lag is worth an alert."""

    warning_s: float = Field(default=5.0, gt=0, description="lag in seconds from which on the level is `warning`")
    alarm_s: float = Field(default=30.0, gt=0, description="the same for `alarm`")
    critical_s: float = Field(default=120.0, gt=0, description="the same for `critical`")
    hold_s: float = Field(default=5.0, ge=0, description="how long the lag must stay there before the level is raised")
    clear_s: float = Field(
        default=30.0, ge=0, description="how long it must stay below 80 % of the threshold before the level is lowered"
    )

    @model_validator(mode="after")
    def _rising(self) -> LagConfig:
        if not self.warning_s < self.alarm_s < self.critical_s:
            raise ValueError("thresholds must rise: warning_s < alarm_s < critical_s")
        return self

    def thresholds(self) -> Thresholds:
        """The monitor's view."""
        return Thresholds(self.warning_s, self.alarm_s, self.critical_s, self.hold_s, self.clear_s)


class MonitorSettings(Section):
    """`[monitor]`: where alerts go."""

    webhook_url: Url | None = Field(
        default=None, description="`http(s)://...` that gets each change of a lag level as a JSON POST; kept secret"
    )
    metrics_listen: str | None = Field(
        default=None,
        pattern=r"^\S+:\d{1,5}$",
        description="`host:port` where Prometheus finds `/metrics`; default: none",
    )
