"""Receivers of alerts on loopback: Slack's Web API, a webhook, an SMTP server. Each can be down, slow or refuse."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs

from tests.fakes.threads import Quiet, http_server, loop_thread


@dataclass
class Request:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    def arguments(self) -> dict[str, Any]:
        """As Slack takes them: JSON or a form."""
        if self.headers.get("content-type", "").startswith("application/json"):
            return self.json()
        return {k: v[0] for k, v in parse_qs(self.body.decode()).items()}


@dataclass
class HttpReceiver:
    """A webhook. `failing` answers come first: a status each, 0 closes the connection without one."""

    failing: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    taken: list[Request] = field(default_factory=list)
    url: str = ""

    def answer(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        if self.failing:
            return self.failing.pop(0), self.headers, b"{}"
        self.taken.append(request)
        return 200, {}, b"{}"

    @contextmanager
    def running(self, port: int = 0) -> Iterator["HttpReceiver"]:
        outer = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                outer.requests.append(request)
                status, headers, content = outer.answer(request)
                if status == 0:
                    self.connection.close()
                    return
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        with http_server(Handler, port) as self.url:
            yield self


@dataclass
class SlackServer(HttpReceiver):
    """Slack's Web API: one token, some channels; refusals have status 200 and `ok: false`, as Slack's have."""

    token: str = "xoxb-only-for-tests"
    channels: frozenset[str] = frozenset({"#ops"})

    def answer(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        if self.failing:
            return self.failing.pop(0), self.headers, b'{"ok": false, "error": "ratelimited"}'
        given = request.arguments()
        if request.path != "/api/chat.postMessage":
            said: dict[str, object] = {"ok": False, "error": "unknown_method"}
        elif request.headers.get("authorization") != f"Bearer {self.token}":
            said = {"ok": False, "error": "invalid_auth"}
        elif given.get("channel") not in self.channels:
            said = {"ok": False, "error": "channel_not_found"}
        else:
            self.taken.append(request)
            said = {"ok": True, "channel": "C1", "ts": f"{len(self.taken)}.0"}
        return 200, {}, json.dumps(said).encode()

    @property
    def texts(self) -> list[str]:
        return [r.arguments()["text"] for r in self.taken]


@dataclass
class SmtpServer:
    """Plain SMTP without encryption. `failing` holds replies to DATA, e.g. `451 try later`, that come first."""

    failing: list[str] = field(default_factory=list)
    refused: frozenset[str] = frozenset()
    mails: list[EmailMessage] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def running(self) -> Iterator["SmtpServer"]:
        @asynccontextmanager
        async def serving() -> AsyncIterator[None]:
            async with await asyncio.start_server(self._session, "127.0.0.1", 0) as server:
                self.port = server.sockets[0].getsockname()[1]
                yield

        with loop_thread(serving):
            yield self

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def reply(line: str) -> None:
            writer.write(line.encode() + b"\r\n")

        reply("220 fake")
        while line := (await reader.readline()).decode().strip():
            verb = line.upper().split(":")[0]
            if verb.startswith("RCPT") and any(address in line for address in self.refused):
                reply("550 no such user")
            elif verb == "DATA":
                reply("354 go on")
                body = (await reader.readuntil(b"\r\n.\r\n"))[:-3]
                if self.failing:
                    reply(self.failing.pop(0))
                else:
                    mail = message_from_bytes(body, policy=policy.default)
                    assert isinstance(mail, EmailMessage)
                    self.mails.append(mail)
                    reply("250 taken")
            elif verb == "QUIT":
                reply("221 bye")
                break
            else:
                reply("250 fake" if verb.startswith(("EHLO", "HELO", "MAIL", "RCPT", "RSET")) else "502 unknown")
        writer.close()
