"""Channels against real servers, and the outbox: one event, one message, whatever is down meanwhile."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelops_dagster.clients.alerts import AlertConfig, Outbox, load_alert_config
from modelops_dagster.clients.alerts.channels import sender
from modelops_dagster.clients.alerts.webhook import signature
from modelops_dagster.clients.processes import free_port
from modelops_dagster.domain.alerts import KINDS, Alert, AlertKind, Message, alert, message
from modelops_dagster.domain.errors import AlertNotSent, InvalidSpec
from tests.fakes.alert_receivers import HttpReceiver, SlackServer, SmtpServer

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECRETS = {"SLACK": "xoxb-only-for-tests", "HOOK_KEY": "k3y", "HOOK_URL": "", "SMTP": "pw"}
EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "alerts.example.yaml"


def some(number: int = 0, kind: AlertKind = "failure", at: datetime = NOW) -> Alert:
    lines = ["it <said> so & so"]
    return alert(kind, "acme/x", f"Failed: acme/x{number}", lines, dedupe_key=str(number), at=at, url="http://ui/r")


def config(*channels: dict[str, Any]) -> AlertConfig:
    return AlertConfig.model_validate({"channels": list(channels)})


def hook(url: str, **more: Any) -> dict[str, Any]:
    return {"name": "hook", "type": "webhook", "url": url, "timeout_s": 2, **more}


def slack_channel(url: str, **more: Any) -> dict[str, Any]:
    return {"name": "ops", "type": "slack", "channel": "#ops", "token_env": "SLACK", "base_url": f"{url}/api"} | more


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def hooks(stack: ExitStack) -> HttpReceiver:
    return stack.enter_context(HttpReceiver().running())


@pytest.fixture
def slack(stack: ExitStack) -> SlackServer:
    server = SlackServer()
    stack.enter_context(server.running())
    return server


@pytest.fixture
def smtp(stack: ExitStack) -> SmtpServer:
    return stack.enter_context(SmtpServer().running())


def send(channel: dict[str, Any], text: Message | None = None) -> None:
    sender(config(channel).channels[0], SECRETS.get).send(text or message([some()]))


# channels


def test_slack_gets_title_lines_and_link(slack: SlackServer):
    send(slack_channel(slack.url))
    assert slack.texts == ["*Failed: acme/x0*\nit &lt;said&gt; so &amp; so\n<http://ui/r|open>"]


@pytest.mark.parametrize(
    ("more", "said"),
    [({"channel": "#gone"}, "channel_not_found"), ({"token_env": "HOOK_KEY"}, "invalid_auth")],
)
def test_what_slack_says_is_passed_on_and_no_token(slack: SlackServer, more: dict[str, Any], said: str):
    with pytest.raises(AlertNotSent, match=said) as caught:
        send(slack_channel(slack.url, **more))
    assert "k3y" not in str(caught.value)


def test_slack_says_how_long_to_wait(slack: SlackServer):
    slack.failing, slack.headers = [429], {"Retry-After": "77"}
    with pytest.raises(AlertNotSent, match="ratelimited") as caught:
        send(slack_channel(slack.url))
    assert caught.value.retry_after_s == 77


def test_a_webhook_is_signed(hooks: HttpReceiver):
    send(hook(f"{hooks.url}/in?token=hidden", secret_env="HOOK_KEY"))
    (request,) = hooks.taken
    stamp = request.headers["x-modelops-timestamp"]
    assert request.headers["x-modelops-signature"] == signature("k3y", stamp, request.body)
    assert request.headers["x-modelops-delivery"] == request.json()["message_id"]
    assert request.json()["alerts"][0]["subject"] == "acme/x"
    assert request.json()["text"].startswith("Failed: acme/x0\n")


@pytest.mark.parametrize("status", [0, 301, 404, 500])
def test_an_address_that_is_a_secret_is_not_in_the_error(hooks: HttpReceiver, status: int):
    hooks.failing = [status]
    with pytest.raises(AlertNotSent, match=r"channel hook: 127\.0\.0\.1") as caught:
        send(hook(f"{hooks.url}/in?token=hidden"))
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None


def mail_channel(port: int, **more: Any) -> dict[str, Any]:
    base = {"name": "mail", "type": "email", "host": "127.0.0.1", "port": port, "starttls": False}
    return base | {"sender": "bot@example.org", "to": ["a@example.org", "b@example.org"], "timeout_s": 2} | more


def test_a_mail(smtp: SmtpServer):
    send(mail_channel(smtp.port))
    (mail,) = smtp.mails
    assert mail["Subject"] == "[modelops] Failed: acme/x0"
    assert mail["To"] == "a@example.org, b@example.org"
    assert mail.get_content().splitlines() == ["it <said> so & so", "", "http://ui/r"]


def test_a_mail_that_is_refused_or_would_go_unencrypted(smtp: SmtpServer):
    smtp.refused = frozenset({"b@example.org"})
    with pytest.raises(AlertNotSent, match=r"b@example\.org was refused"):
        send(mail_channel(smtp.port))
    smtp.refused, smtp.failing = frozenset(), ["451 try later"]
    with pytest.raises(AlertNotSent, match="SMTPDataError 451"):
        send(mail_channel(smtp.port))
    with pytest.raises(AlertNotSent, match="SMTPNotSupportedError"):
        send(mail_channel(smtp.port, starttls=True))


def test_a_variable_that_is_not_set_is_named(hooks: HttpReceiver):
    with pytest.raises(AlertNotSent, match="the variable HOOK_URL is not set"):
        send({"name": "hook", "type": "webhook", "url_env": "HOOK_URL"})


# configuration


def test_the_example_holds(tmp_path: Path):
    found = load_alert_config(EXAMPLE)
    assert [c.type for c in found.channels] == ["slack", "email", "webhook"]
    assert found.names_for("framework_update") == ("mail", "hook")
    assert set(found.channels[2].kinds) == set(KINDS)
    assert load_alert_config(tmp_path / "none.yaml") == AlertConfig()


@pytest.mark.parametrize(
    ("channel", "field"),
    [
        ({"name": "x", "type": "pager"}, "does not match any of the expected tags"),
        (hook("http://h") | {"token": "xoxb-secret"}, "token: this field is not known; check the spelling"),
        (hook("ftp://h"), "http"),
        (hook("http://h") | {"url_env": "HOOK_URL"}, "either url or url_env"),
        (slack_channel("http://h", token_env="xoxb-secret"), "token_env"),
        (mail_channel(25, username="u"), "belong together"),
        (mail_channel(25, host="mail.example.org", username="u", password_env="SMTP"), "without encryption"),
        (mail_channel(25, to=["a@b\nBcc: c@d"]), "e-mail address"),
        (hook("http://h", kinds=["verdicts"]), "kinds"),
    ],
)
def test_a_file_that_does_not_hold_says_where_and_shows_no_secret(tmp_path: Path, channel: dict[str, Any], field: str):
    path = tmp_path / "alerts.yaml"
    path.write_text(yaml.safe_dump({"channels": [channel]}))
    with pytest.raises(InvalidSpec, match=field) as caught:
        load_alert_config(path)
    assert "xoxb-secret" not in str(caught.value)


def test_two_channels_of_one_name_and_no_yaml(tmp_path: Path):
    path = tmp_path / "alerts.yaml"
    path.write_text(yaml.safe_dump({"channels": [hook("http://h"), hook("http://g")]}))
    with pytest.raises(InvalidSpec, match="two channels are called 'hook'"):
        load_alert_config(path)
    path.write_text("channels: [")
    with pytest.raises(InvalidSpec, match=r"alerts\.yaml:1 is not YAML"):
        load_alert_config(path)


# the outbox


def test_one_event_one_message_per_channel(tmp_path: Path, slack: SlackServer, hooks: HttpReceiver, smtp: SmtpServer):
    box = Outbox(tmp_path / "alerts")
    wanted = config(slack_channel(slack.url), hook(hooks.url, kinds=["verdict"]), mail_channel(smtp.port))
    assert box.put([some(1), some(1), some(2)], wanted, NOW) == [some(1), some(2)]
    assert box.put([some(1)], wanted, NOW) == []
    for _ in range(3):
        box.flush(wanted, SECRETS.get, NOW)
        box.put([some(2)], wanted, NOW)
    assert (len(slack.taken), len(smtp.mails), len(hooks.requests)) == (2, 2, 0)
    assert [d.channels for d in box.recent(NOW)] == [{"ops": "sent", "mail": "sent"}] * 2


def test_down_then_up_is_exactly_one_delivery(tmp_path: Path):
    box, port = Outbox(tmp_path / "alerts"), free_port("127.0.0.1")
    wanted = config(hook(f"http://127.0.0.1:{port}"))
    box.put([some()], wanted, NOW)
    first = box.flush(wanted, SECRETS.get, NOW)
    assert (first.sent, first.waiting, len(first.failures)) == (0, 1, 1)
    with HttpReceiver().running(port) as up:
        assert box.flush(wanted, SECRETS.get, NOW + timedelta(seconds=29)).sent == 0  # still left alone
        assert up.requests == []
        for minutes in range(1, 10):
            box.flush(wanted, SECRETS.get, NOW + timedelta(minutes=minutes))
        assert len(up.taken) == 1


def test_the_pause_grows_and_the_receiver_may_ask_for_more(tmp_path: Path, hooks: HttpReceiver):
    box, wanted = Outbox(tmp_path / "alerts"), config(hook(hooks.url))
    hooks.failing = [500] * 6 + [429]
    box.put([some()], wanted, NOW)
    tried = []
    for second in range(0, 4000, 5):
        before = len(hooks.requests)
        hooks.headers = {"Retry-After": "1200"} if len(hooks.failing) == 1 else {}
        box.flush(wanted, SECRETS.get, NOW + timedelta(seconds=second))
        tried += [second] * (len(hooks.requests) - before)
    assert [b - a for a, b in pairwise(tried)] == [30, 60, 120, 240, 480, 900, 1200]
    assert len(hooks.taken) == 1


def test_what_comes_while_a_channel_is_down_is_one_message_later(tmp_path: Path, hooks: HttpReceiver):
    box, wanted = Outbox(tmp_path / "alerts"), config(hook(hooks.url))
    hooks.failing = [500]
    box.put([some(0)], wanted, NOW)
    box.flush(wanted, SECRETS.get, NOW)
    for number in range(1, 11):
        box.put([some(number)], wanted, NOW + timedelta(seconds=number))
        box.flush(wanted, SECRETS.get, NOW + timedelta(seconds=number))
    assert box.flush(wanted, SECRETS.get, NOW + timedelta(minutes=1)).sent == 2
    titles = {r.json()["title"] for r in hooks.taken}
    assert titles == {"Failed: acme/x0", "10 failures"}
    assert hooks.requests[0].json()["message_id"] in {r.json()["message_id"] for r in hooks.taken}


def test_a_message_that_is_never_taken_holds_nobody_up_and_is_given_up(tmp_path: Path, smtp: SmtpServer):
    """Poison: the first mail is refused for ever, the others go out; after three days it is let go."""

    class Picky:
        sent: list[str] = []  # noqa: RUF012 - one list for all the senders of this test

        def send(self, text: Message) -> None:
            if text.title.endswith("x0"):
                raise AlertNotSent("never")
            self.sent.append(text.title)

    wanted = config(mail_channel(smtp.port))
    box = Outbox(tmp_path / "alerts", lambda *_: Picky())
    box.put([some(0)], wanted, NOW)
    box.flush(wanted, SECRETS.get, NOW)
    for hour in range(1, 80):
        box.put([some(hour, at=NOW + timedelta(hours=hour))], wanted, NOW + timedelta(hours=hour))
        box.flush(wanted, SECRETS.get, NOW + timedelta(hours=hour))
    assert len(Picky.sent) == 79
    assert box.recent(NOW + timedelta(hours=80), 100)[-1].channels == {"mail": "given up"}


def test_a_fault_of_a_sender_stops_nobody(tmp_path: Path, hooks: HttpReceiver):
    def broken(*_: object) -> Any:
        raise ZeroDivisionError

    wanted = config(hook(hooks.url))
    box = Outbox(tmp_path / "alerts", broken)
    box.put([some()], wanted, NOW)
    assert "ZeroDivisionError while sending" in box.flush(wanted, SECRETS.get, NOW).failures[0]


def test_a_line_cut_short_by_a_kill_loses_no_other(tmp_path: Path, hooks: HttpReceiver):
    box, wanted = Outbox(tmp_path / "alerts"), config(hook(hooks.url))
    box.put([some(1)], wanted, NOW)
    (segment,) = (tmp_path / "alerts").glob("*.jsonl")
    with segment.open("ab") as out:
        out.write('{"what": "queued", "alert": {"title": "ü'.encode()[:-1])
    box.put([some(2)], wanted, NOW)
    assert box.flush(wanted, SECRETS.get, NOW).sent == 2
    assert box.put([some(1), some(2)], wanted, NOW) == []


def test_without_a_file_alerts_are_kept_and_not_sent_later(tmp_path: Path, hooks: HttpReceiver):
    box = Outbox(tmp_path / "alerts")
    box.put([some(1)], AlertConfig(), NOW)
    box.put([some(2)], None, NOW)  # the file does not hold just now: routed when it does
    assert box.flush(config(hook(hooks.url)), SECRETS.get, NOW).sent == 1
    assert hooks.taken[0].json()["title"] == "Failed: acme/x2"


def test_a_new_month_forgets_nothing(tmp_path: Path, hooks: HttpReceiver):
    box, wanted = Outbox(tmp_path / "alerts"), config(hook(hooks.url))
    eve = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
    box.put([some(at=eve)], wanted, eve)
    later = eve + timedelta(minutes=5)
    assert box.flush(wanted, SECRETS.get, later).sent == 1
    assert box.put([some(at=eve)], wanted, later) == []
    assert box.flush(wanted, SECRETS.get, later + timedelta(hours=1)).sent == 0
    assert len(list((tmp_path / "alerts").glob("*.jsonl"))) == 2


def test_the_budget_ends_a_flush(tmp_path: Path, hooks: HttpReceiver):
    box, wanted = Outbox(tmp_path / "alerts"), config(hook(hooks.url))
    box.put([some(i) for i in range(3)], wanted, NOW)
    done = box.flush(wanted, SECRETS.get, NOW, budget_s=0)
    assert (done.sent, done.waiting, done.failures) == (0, 3, ())


def test_no_secret_is_written_down(tmp_path: Path, slack: SlackServer, hooks: HttpReceiver):
    box = Outbox(tmp_path / "alerts")
    secrets = {"SLACK": "wrong-token-7", "KEY": "hmac-key-7", "URL": f"{hooks.url}/path-7"}
    hooks.failing = [500]
    hidden = {"name": "hook", "type": "webhook", "url_env": "URL", "secret_env": "KEY"}
    wanted = config(slack_channel(slack.url), hidden)
    box.put([some()], wanted, NOW)
    assert len(box.flush(wanted, secrets.get, NOW).failures) == 2
    written = "".join(p.read_text() for p in (tmp_path / "alerts").iterdir())
    assert not [value for value in ("wrong-token-7", "hmac-key-7", "path-7") if value in written]


def _put_many(folder: Path, first: int) -> None:
    box = Outbox(folder)
    for number in range(first, first + 20):
        box.put([some(number)], None, NOW)


def test_processes_put_and_flush_at_once(tmp_path: Path, hooks: HttpReceiver):
    """Two writers whose alerts overlap, and a flusher between them: each alert arrives once."""
    folder, wanted = tmp_path / "alerts", config(hook(hooks.url))
    spawn: Callable[..., Any] = multiprocessing.get_context("spawn").Process
    writers = [spawn(target=_put_many, args=(folder, first)) for first in (0, 10)]
    for writer in writers:
        writer.start()
    box = Outbox(folder)
    while any(w.is_alive() for w in writers):
        box.flush(wanted, SECRETS.get, NOW)
    box.flush(wanted, SECRETS.get, NOW)
    assert [w.exitcode for w in writers] == [0, 0]
    arrived = [a["dedupe_key"] for r in hooks.taken for a in r.json()["alerts"]]
    assert sorted(arrived) == sorted(f"failure:{n}" for n in range(30))
