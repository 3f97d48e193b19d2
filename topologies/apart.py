"""Source and target must not be one database with the same tables: every change would come back as a new one."""

from __future__ import annotations

from connectors.admin import SourceAdmin, TargetAdmin
from connectors.settings import SourceSettings
from pipeline.errors import ConfigError
from pipeline.selection import selected


def require_apart(stream: str, settings: SourceSettings, source: SourceAdmin, target: TargetAdmin) -> None:
    """Raise ConfigError where the stream would replicate what it has written itself."""
    if source.database() != target.database():
        return
    again = [name for name in source.tables() if selected(name, settings.tables, settings.exclude)]
    if again:
        raise ConfigError(
            f"stream {stream}: source and target are the same database, and what is written to "
            f"{', '.join('.'.join(name) for name in again[:5])} would be replicated again: correct a dsn, or give the "
            "target other names in [streams.mapping]"
        )
