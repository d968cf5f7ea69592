"""The outbox: alerts are written down first and sent afterwards, each once per channel.

An append-only file a month under `<home>/alerts/`. A line says that an alert was queued, that alerts were put into a
message of a channel, and how each attempt to send it ended. A message keeps its id and its alerts over all attempts, so
a receiver can tell a repetition after a crash between the sending and the note about it. Nothing secret is in it.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from modelops_dagster.clients.alerts.channels import Secrets, Sender, sender
from modelops_dagster.clients.alerts.config import AlertConfig, ChannelConfig
from modelops_dagster.clients.alerts.ledger import Ledger, MessageState
from modelops_dagster.domain.alerts import Alert, Message, group, message
from modelops_dagster.domain.errors import AlertNotSent

FIRST_DELAY_S = 30.0
MAX_DELAY_S = 900.0
GIVE_UP_AFTER = timedelta(hours=72)


class Flushed(NamedTuple):
    """What one flush did. `failures` holds a sentence per failed attempt."""

    sent: int = 0
    failures: tuple[str, ...] = ()
    waiting: int = 0


class Delivery(NamedTuple):
    """One alert and what became of it, by channel: sent, waiting, or given up."""

    alert: Alert
    channels: dict[str, str]


class Outbox:
    """Alerts of one home. Several processes may use it at once.

    Args:
        folder: `<home>/alerts`; made when the first alert is queued.
        make_sender: how a channel is opened.
    """

    def __init__(self, folder: Path, make_sender: Callable[[ChannelConfig, Secrets], Sender] = sender) -> None:
        self._folder = folder
        self._make_sender = make_sender

    def put(self, alerts: Sequence[Alert], config: AlertConfig | None, now: datetime) -> list[Alert]:
        """Write down alerts that were not seen before, with the channels that want them.

        Args:
            config: None when it cannot be read just now; the next flush decides about the channels then.
            now: UTC. Two months of alerts are looked at for the same dedupe_key.

        Returns:
            Those that are new.
        """
        if not alerts:
            return []
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked("outbox.lock"):
            seen = set(self._read(now).alerts)
            fresh = []
            for one in alerts:
                if one.dedupe_key not in seen:
                    seen.add(one.dedupe_key)
                    fresh.append(one)
            self._append(
                now,
                [
                    {
                        "what": "queued",
                        "alert": one.model_dump(mode="json"),
                        "channels": None if config is None else list(config.names_for(one.kind)),
                    }
                    for one in fresh
                ],
            )
        return fresh

    def flush(self, config: AlertConfig, secrets: Secrets, now: datetime, budget_s: float = 20) -> Flushed:
        """Send what is due. A channel that fails is left alone for a while, with what is queued for it meanwhile.

        Args:
            secrets: gives the value of an environment variable.
            now: UTC.
            budget_s: no further message is begun after this time.
        """
        if not self._folder.is_dir():
            return Flushed()
        deadline = time.monotonic() + budget_s
        sent, failures, waiting = 0, [], 0
        with self._locked("flush.lock", wait=False) as mine:
            if not mine:
                return Flushed()
            for channel in config.channels:
                done, failure, left = self._flush_channel(channel, secrets, now, deadline)
                sent += done
                waiting += left
                failures += [failure] if failure else []
        return Flushed(sent, tuple(failures), waiting)

    def recent(self, now: datetime, limit: int = 50) -> list[Delivery]:
        """The newest alerts, newest first, with what became of each."""
        ledger = self._read(now)
        newest = sorted(ledger.alerts.values(), key=lambda q: q.alert.at, reverse=True)[:limit]
        return [Delivery(q.alert, ledger.outcomes(q.alert.dedupe_key)) for q in newest]

    def _flush_channel(
        self, channel: ChannelConfig, secrets: Secrets, now: datetime, deadline: float
    ) -> tuple[int, str | None, int]:
        """Messages sent, the sentence of the first failure, messages left."""
        ledger = self._read(now)
        due = self._due(ledger, channel, now)
        if not due or ledger.resting_until(channel.name) > now:
            return 0, None, len(due)
        for number, (state, text) in enumerate(due):
            if time.monotonic() >= deadline:
                return number, None, len(due) - number
            failure = self._attempt(channel, secrets, text)
            note = {"id": text.message_id, "channel": channel.name}
            if failure is None:
                self._note(now, {"what": "sent", **note})
                continue
            attempt = max(state.attempts, ledger.failures(channel.name)) + 1
            delay_s = max(failure.retry_after_s or 0.0, min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(attempt - 1, 10)))
            next_at = now + timedelta(seconds=delay_s)
            self._note(now, {"what": "failed", **note, "error": failure.sentence, "next_at": next_at.isoformat()})
            return number, failure.sentence, len(due) - number
        return len(due), None, 0

    def _due(self, ledger: Ledger, channel: ChannelConfig, now: datetime) -> list[tuple[MessageState, Message]]:
        """Messages of the channel that may be sent now, the least tried first; new alerts become messages here."""
        found: list[tuple[MessageState, Message]] = []
        for state in ledger.unsent(channel.name):
            alerts = [ledger.alerts[key].alert for key in state.keys if key in ledger.alerts]
            if len(alerts) < len(state.keys) or now - state.at > GIVE_UP_AFTER:
                self._note(now, {"what": "given_up", "id": state.message_id, "channel": channel.name})
            elif state.next_at <= now:
                found.append((state, message(alerts)))
        if ledger.resting_until(channel.name) <= now:
            pending = [a for a in ledger.pending(channel.name, channel.kinds) if now - a.at <= GIVE_UP_AFTER]
            for text in group(pending):
                keys = [a.dedupe_key for a in text.alerts]
                record = {"what": "message", "id": text.message_id, "channel": channel.name, "keys": keys}
                self._note(now, record)
                found.append((MessageState(text.message_id, tuple(keys), now), text))
        return sorted(found, key=lambda pair: (pair[0].attempts, pair[0].at))

    def _attempt(self, channel: ChannelConfig, secrets: Secrets, text: Message) -> AlertNotSent | None:
        try:
            self._make_sender(channel, secrets).send(text)
        except AlertNotSent as error:
            return error
        except Exception as error:  # a fault of ours must not stop the other channels, and is told like the others
            return AlertNotSent(f"channel {channel.name}: {type(error).__name__} while sending; report this as a bug.")
        return None

    def _note(self, now: datetime, record: dict[str, Any]) -> None:
        with self._locked("outbox.lock"):
            self._append(now, [record])

    def _append(self, now: datetime, records: Sequence[dict[str, Any]]) -> None:
        path = self._segment(now)
        body = "".join(json.dumps({**r, "at": now.isoformat()}, ensure_ascii=False) + "\n" for r in records)
        with path.open("ab+") as out:
            if out.tell():
                out.seek(-1, os.SEEK_END)
                if out.read(1) != b"\n":  # a line that a kill cut short
                    body = "\n" + body
            out.write(body.encode())

    def _read(self, now: datetime) -> Ledger:
        """This month's segment and the one before it."""
        before = self._segment(now.replace(day=1) - timedelta(days=1))
        lines: list[str] = []
        for path in (before, self._segment(now)):
            if path.is_file():
                lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
        return Ledger.of(lines)

    def _segment(self, now: datetime) -> Path:
        return self._folder / f"outbox-{now.astimezone(UTC):%Y-%m}.jsonl"

    @contextmanager
    def _locked(self, name: str, wait: bool = True) -> Iterator[bool]:
        with (self._folder / name).open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
