"""PostgreSQL as a source and as a target."""

from connectors.base import Connector
from connectors.postgres.admin import PostgresSourceAdmin, PostgresTargetAdmin
from connectors.postgres.dead_letters import PostgresDeadLetters
from connectors.postgres.dsn import check_dsn
from connectors.postgres.ledger import PostgresLedger
from connectors.postgres.parking_lane import ParkingLane
from connectors.postgres.replication import parse_lsn, position_text
from connectors.postgres.rows import PostgresRows
from connectors.postgres.source import PostgresSource
from connectors.postgres.verify import verify_tables

CONNECTOR = Connector(
    name="postgres",
    source=PostgresSource,
    source_admin=PostgresSourceAdmin,
    ledger=PostgresLedger,
    lane_target=ParkingLane,
    target_admin=PostgresTargetAdmin,
    dead_letters=PostgresDeadLetters,
    rows=PostgresRows,
    verify=verify_tables,
    position_text=position_text,
    parse_position=parse_lsn,
    check_dsn=check_dsn,
)
