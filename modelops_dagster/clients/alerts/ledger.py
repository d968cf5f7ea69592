"""The outbox's lines, read into what is queued, what is under way and what has arrived."""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from modelops_dagster.domain.alerts import Alert, AlertKind

LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass
class Queued:
    """An alert, and the channels it goes to; None: whoever wants its kind."""

    alert: Alert
    channels: tuple[str, ...] | None


@dataclass
class MessageState:
    """One message of one channel."""

    message_id: str
    keys: tuple[str, ...]
    at: datetime
    attempts: int = 0
    next_at: datetime = LONG_AGO
    outcome: str = "waiting"


@dataclass
class Ledger:
    """The state that the lines add up to."""

    alerts: dict[str, Queued] = field(default_factory=dict)
    _messages: dict[tuple[str, str], MessageState] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _resting: dict[str, datetime] = field(default_factory=dict)

    @classmethod
    def of(cls, lines: Iterable[str]) -> "Ledger":
        """Read lines in the order they were written. A line that a kill cut short counts as not written."""
        ledger = cls()
        for line in lines:
            try:
                ledger._take(json.loads(line))
            except (ValueError, KeyError, TypeError, ValidationError):
                continue
        return ledger

    def _take(self, record: dict[str, Any]) -> None:
        what, at = record["what"], datetime.fromisoformat(record["at"])
        if what == "queued":
            channels = record["channels"]
            one = Alert.model_validate(record["alert"])
            self.alerts[one.dedupe_key] = Queued(one, None if channels is None else tuple(channels))
            return
        name, key = record["channel"], (record["channel"], record["id"])
        if what == "message":
            self._messages[key] = MessageState(record["id"], tuple(record["keys"]), at)
        elif what == "failed":
            state = self._messages[key]
            state.attempts += 1
            state.next_at = datetime.fromisoformat(record["next_at"])
            self._failures[name] = self._failures.get(name, 0) + 1
            self._resting[name] = state.next_at
        elif what in ("sent", "given_up"):
            self._messages[key].outcome = "sent" if what == "sent" else "given up"
            if what == "sent":
                self._failures.pop(name, None)
                self._resting.pop(name, None)

    def unsent(self, channel: str) -> list[MessageState]:
        """Messages of the channel that are neither sent nor given up."""
        return [m for (name, _), m in self._messages.items() if name == channel and m.outcome == "waiting"]

    def pending(self, channel: str, kinds: Collection[AlertKind]) -> list[Alert]:
        """Alerts for the channel that are in no message yet, oldest first."""
        taken = {key for state in self._of(channel) for key in state.keys}
        return [
            q.alert
            for key, q in self.alerts.items()
            if key not in taken and (channel in q.channels if q.channels is not None else q.alert.kind in kinds)
        ]

    def failures(self, channel: str) -> int:
        """Failed attempts since the last one that succeeded."""
        return self._failures.get(channel, 0)

    def resting_until(self, channel: str) -> datetime:
        """The channel failed last time and is left alone until then."""
        return self._resting.get(channel, LONG_AGO)

    def outcomes(self, dedupe_key: str) -> dict[str, str]:
        """What became of one alert, by channel."""
        wanted = self.alerts[dedupe_key].channels or ()
        found = dict.fromkeys(wanted, "waiting")
        for (name, _), state in self._messages.items():
            if dedupe_key in state.keys:
                found[name] = state.outcome
        return found

    def _of(self, channel: str) -> Iterator[MessageState]:
        return (m for (name, _), m in self._messages.items() if name == channel)
