"""`[cache]` and `[directory]` of the configuration file: the nodes that cache rows, and who masters which."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, model_validator

from pipeline.directory.verdicts import Policy
from topologies.settings_parts import NAME, Section

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
_ADDRESS = r"^[^:\s]+:\d{1,5}$"


class CacheSettings(Section):
    """`[cache]`: the row cache of this node, its HTTP address and its peers."""

    node: str = Field(default="local", pattern=NAME, description="this node's name, another one on every node")
    http: str = Field(default="127.0.0.1:8642", pattern=_ADDRESS, description="where rows are served over HTTP")
    listen: str = Field(default="127.0.0.1:8643", pattern=_ADDRESS, description="where other nodes connect to")
    peers: dict[str, str] = Field(
        default_factory=dict, description='the other nodes, `name = "host:port"` of their `listen`'
    )
    memory_bytes_max: int = Field(
        default=256 * 1024 * 1024,
        ge=1024 * 1024,
        description="row images in memory; what was read once or not at all goes first",
    )
    buckets: int = Field(default=1024, ge=1, le=65536, description="blocks a table; the same on every node")
    wait_s: float = Field(default=5.0, ge=0, le=60, description="longest wait of a read for the position it asks for")
    token: SecretStr | None = Field(
        default=None, description="shared secret of readers and nodes; needed for any address that is not loopback"
    )
    tls_cert: Path | None = Field(default=None, description="certificate of this node (PEM), for peers and HTTP")
    tls_key: Path | None = Field(default=None, description="its private key")
    tls_ca: Path | None = Field(default=None, description="authority that the certificates of peers must be signed by")

    @model_validator(mode="after")
    def _closed(self) -> CacheSettings:
        hosts = {address.rpartition(":")[0] for address in (self.http, self.listen)}
        if hosts - LOOPBACK_HOSTS and self.token is None:
            raise ValueError("cache: an address that is not loopback needs `token`")
        if len({self.tls_cert is None, self.tls_key is None, self.tls_ca is None}) > 1:
            raise ValueError("cache: tls_cert, tls_key and tls_ca go together")
        if self.node in self.peers:
            raise ValueError(f"cache: {self.node} is this node, not a peer")
        return self


class DirectorySettings(Section):
    """`[directory]`: which node masters which rows. Nodes and blocks are those of `[cache]`."""

    enabled: bool = Field(default=False, description="start the role `affinity`, count accesses, prefer lanes by node")
    moves_per_s: float = Field(
        default=100.0, gt=0, le=10_000, description="blocks that may change their master a second, a partition"
    )
    residency_s: float = Field(default=5.0, ge=0, le=3600, description="how long a block stays after a move, at least")
    move_cost_ms: float = Field(
        default=2.0, gt=0, description="what a move costs, in time of remote accesses; higher: fewer moves"
    )

    def policy(self) -> Policy:
        """The decider's view."""
        return Policy(
            moves_per_s=self.moves_per_s, residency_us=round(self.residency_s * 1e6), move_us=self.move_cost_ms * 1000
        )
