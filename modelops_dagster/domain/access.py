"""Who may do what at the controller: a key carries one role, and a role includes every lesser one."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from modelops_dagster.domain.values import Value


class Role(StrEnum):
    """From the least to the most."""

    VIEWER = "viewer"  # reads: state, metrics, logs, routes, batches
    OPERATOR = "operator"  # changes endpoints, routes and batches, and talks to models in the playground
    ADMIN = "admin"  # deletes endpoints, and lets one answer that no verdict passed

    def includes(self, needed: "Role") -> bool:
        """Whether this role may do what `needed` may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class AccessKey(Value):
    """What is kept of a controller key. The key itself is shown once and never stored."""

    key_id: str = Field(description="first 16 hex digits of the key's sha256; names the key in lists and logs")
    key_sha256: str = Field(description="sha256 of the key, hex")
    alias: str = Field(min_length=1, max_length=64, description="who or what uses the key")
    role: Role
    created_at: datetime
    revoked_at: datetime | None = None


class Caller(Value):
    """Who asks the controller."""

    alias: str = Field(description="of the key; `home` for the home's own")
    role: Role
