"""`[streams.mapping]` of the configuration file."""

from __future__ import annotations

import os

from pydantic import Field

from pipeline.errors import ConfigError
from pipeline.mapping import SECRET_BYTES_MIN, TableMapping
from topologies.settings_parts import Section


class MappingConfig(Section):
    """`[streams.mapping]`: other names on the target, and columns that do not travel as they are."""

    rename: dict[str, str] = Field(
        default_factory=dict,
        description='`schema` or `schema.table` of the source -> its name on the target, e.g. `{ public = "shop" }`',
    )
    exclude_columns: tuple[str, ...] = Field(
        (), description="patterns on `schema.table.column` of columns to leave out; no key columns"
    )
    hash_columns: tuple[str, ...] = Field(
        (),
        description="patterns of columns whose values are replaced by their HMAC-SHA-256 (64 hexadecimal digits; "
        "`text` on the target), in the capture: neither Kafka nor the target sees them",
    )
    hash_secret_env: str = Field(
        "HEADRACE_HASH_SECRET",
        min_length=1,
        description=f"environment variable with the hashes' secret, {SECRET_BYTES_MIN} bytes or more",
    )

    def table_mapping(self) -> TableMapping:
        """The mapping with its secret. Raises ConfigError when columns are to be hashed without one."""
        secret = os.environ.get(self.hash_secret_env, "").encode()
        if self.hash_columns and len(secret) < SECRET_BYTES_MIN:
            raise ConfigError(
                f"mapping.hash_columns needs a secret of {SECRET_BYTES_MIN} bytes or more in the environment variable "
                f"{self.hash_secret_env}"
            )
        return TableMapping(self.rename, self.exclude_columns, self.hash_columns, secret)
