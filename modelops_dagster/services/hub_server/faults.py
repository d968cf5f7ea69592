"""What a Hub may do to its clients on a bad day. Given to the server as an object, never reachable over HTTP."""

from collections import deque
from dataclasses import dataclass, field

KEPT_REQUESTS = 20_000


@dataclass
class Faults:
    """Counters run down as they are used; a test may set them while the server runs."""

    only: str = ""
    """apply to requests whose path contains this"""
    rate_limited: int = 0
    """answer the next n requests with 429"""
    retry_after_s: int = 0
    """what such an answer says about waiting"""
    unavailable: int = 0
    """answer the next n requests with 503"""
    cut_after_bytes: int | None = None
    """close the connection after this many bytes of a file"""
    cuts: int = 0
    """how many downloads to cut"""
    cut_by_reset: bool = False
    """reset the connection where it would be closed"""
    corrupt: int = 0
    """flip a byte in the middle of the next n downloads"""
    bytes_per_s: float | None = None
    """how fast a file is sent"""
    delay_s: float = 0.0
    """how long every answer takes to begin"""
    ignore_ranges: bool = False
    """send whole files, as some proxies do"""
    requests: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_REQUESTS))
    """`METHOD path?query [range]` of what was asked, the oldest forgotten"""

    def applies(self, path: str) -> bool:
        return self.only in path

    def take(self, counter: str) -> bool:
        """Use up one of a counter; False when none is left."""
        left = int(getattr(self, counter))
        if left > 0:
            setattr(self, counter, left - 1)
        return left > 0
