"""A small program that behaves like a serving engine: loads, listens, answers OpenAI calls; or fails in a chosen way.

Standard library only, so it starts in a tenth of a second. Run it as `python engine.py --port P --served-model-name N`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GARBAGE = "�" * 8 + " the the the the the the the the"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--load-s", type=float, default=0.0, help="seconds before it listens")
    parser.add_argument("--child", action="store_true", help="start a worker that outlives a killed parent")
    parser.add_argument("--own-session-child", action="store_true", help="the worker makes a session of its own")
    parser.add_argument("--ignore-sigterm", action="store_true", help="parent and worker")
    parser.add_argument("--die-after-s", type=float, default=None, help="exit 1 so long after it began to listen")
    parser.add_argument("--die-after-asked-s", type=float, default=None, help="exit 1 so long after it said its name")
    parser.add_argument("--fail-line", default=None, help="write this line and exit 1 at once")
    parser.add_argument("--fail-for", default=None, help="write --fail-line only for a served name that holds this")
    parser.add_argument("--hang", action="store_true", help="never listen")
    parser.add_argument("--shutdown-timeout", type=float, default=0.0, help="on SIGTERM, finish calls for so long")
    parser.add_argument("--mute", action="store_true", help="listen, accept, never answer")
    parser.add_argument("--wrong-name", action="store_true", help="answer to another model name")
    parser.add_argument("--tokens-per-second", type=float, default=1000.0)
    parser.add_argument("--longest-prompt", type=int, default=10_000, help="characters; a longer one is refused")
    parser.add_argument("--wrong-for", default=None, help="a served name that holds this gets every third answer wrong")
    parser.add_argument("--garbage", action="store_true", help="answer with noise")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def completion_words(options: argparse.Namespace, prompt: str, limit: int) -> list[str]:
    is_wrong = options.wrong_for and options.wrong_for in options.served_model_name and sum(prompt.encode()) % 3 == 0
    answer = "I do not know." if is_wrong else "The answer is 42."
    text = GARBAGE if options.garbage else f"You asked: {prompt}. {answer}"
    return text.split(" ")[: max(1, limit)]


class UnderWay:
    """How many calls are being answered."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.count -= 1


UNDER_WAY = UnderWay()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 1.0  # a connection that nobody uses is closed, as real engines do after five seconds
    options: argparse.Namespace
    answers = 0

    def log_message(self, template: str, *args: Any) -> None:
        print("INFO:", template % args, flush=True)

    def do_GET(self) -> None:
        if self.options.mute:
            time.sleep(3600)
        name = "somebody-else" if self.options.wrong_name else self.options.served_model_name
        if self.path == "/health":
            self._json(200, {})
        elif self.path == "/v1/models":
            self._json(200, {"object": "list", "data": [{"id": name, "object": "model"}]})
            if self.options.die_after_asked_s is not None:
                die_after(self.options.die_after_asked_s)
        elif self.path == "/metrics":
            self._metrics()
        else:
            self._json(404, {"error": {"message": "not found"}})

    def _metrics(self) -> None:
        """As the Transformers server says it; every answer took a quarter of a second."""
        n = self.answers
        lines = [
            "engine_requests_running 0.0",
            "engine_requests_waiting 2.0",
            f'engine_requests_total{{reason="stop"}} {n}.0',
            f"engine_prompt_tokens_total {3 * n}.0",
            f"engine_generation_tokens_total {5 * n}.0",
            f'engine_request_seconds_bucket{{le="0.2"}} 0.0\nengine_request_seconds_bucket{{le="0.3"}} {n}.0',
            f'engine_request_seconds_bucket{{le="+Inf"}} {n}.0\nengine_request_seconds_count {n}.0',
            f"engine_request_seconds_sum {n / 4}",
        ]
        self._send(200, "text/plain; version=0.0.4", "\n".join(lines).encode() + b"\n")

    def do_POST(self) -> None:
        with UNDER_WAY:
            self._answer()

    def _answer(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
            chat = self.path == "/v1/chat/completions"
            prompt = str(body["messages"][-1]["content"]) if chat else str(body["prompt"])
        except (ValueError, KeyError, IndexError, TypeError):
            self._json(400, {"error": {"message": "bad request", "type": "invalid_request_error"}})
            return
        if len(prompt) > self.options.longest_prompt:
            self._json(400, {"error": {"message": "the prompt is longer than the context", "code": 400}})
            return
        Handler.answers += 1
        words = completion_words(self.options, prompt, int(body.get("max_tokens") or 16))
        if body.get("stream"):
            self._stream(words, chat)
            return
        time.sleep(len(words) / self.options.tokens_per_second)
        content = " ".join(words)
        choice = {"message": {"role": "assistant", "content": content}} if chat else {"text": content}
        usage = {"prompt_tokens": 3, "completion_tokens": len(words), "total_tokens": 3 + len(words)}
        choices = [{"index": 0, "finish_reason": "stop", **choice}]
        self._json(200, {"id": "c", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage})

    def _stream(self, words: list[str], chat: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for word in words:
            time.sleep(1 / self.options.tokens_per_second)
            piece = {"delta": {"content": word + " "}} if chat else {"text": word + " "}
            event = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, **piece}]}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _json(self, status: int, body: Any) -> None:
        self._send(status, "application/json", json.dumps(body).encode())

    def _send(self, status: int, content_type: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def die_after(seconds: float) -> None:
    timer = threading.Timer(seconds, lambda: (print("ERROR: it died", flush=True), os._exit(1)))
    timer.daemon = True
    timer.start()


def drain(server: ThreadingHTTPServer, timeout_s: float) -> None:
    """Finish the calls under way; none is taken any more."""
    server.server_close()
    deadline = time.monotonic() + timeout_s
    while UNDER_WAY.count and time.monotonic() < deadline:
        time.sleep(0.02)


def main() -> None:
    options = parse()
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.worker:
        print("worker", os.getpid(), flush=True)
        time.sleep(3600)
        return
    print("INFO: loading", flush=True)
    if options.fail_line and (options.fail_for or "") in options.served_model_name:
        print(options.fail_line, flush=True)
        sys.exit(1)
    if options.child or options.own_session_child:
        subprocess.Popen([sys.executable, *sys.argv, "--worker"], start_new_session=options.own_session_child)
    if options.hang:
        time.sleep(3600)
    time.sleep(options.load_s)
    Handler.options = options
    ThreadingHTTPServer.request_queue_size = 128
    server = ThreadingHTTPServer((options.host, options.port), Handler)
    if options.shutdown_timeout:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    if options.die_after_s is not None:
        die_after(options.die_after_s)
    print("INFO: listening", flush=True)
    server.serve_forever()
    drain(server, options.shutdown_timeout)


if __name__ == "__main__":
    main()
