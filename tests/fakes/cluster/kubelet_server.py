"""What an API server asks of a node itself: the logs of its containers, over TLS with a certificate of its own."""

import ssl
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fakes.cluster.containers import Logs, lines_of


class KubeletServer:
    """`/containerLogs/<namespace>/<pod>/<container>` on loopback; use as a context manager."""

    def __init__(self, logs: Logs) -> None:
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.logs = logs
        self._http.socket = _tls().wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self.port: int = self._http.server_address[1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    logs: Logs


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, template: str, *args: object) -> None:
        """Say nothing: the test says what matters."""

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        _, kind, _, pod, _ = split.path.split("/")
        text = self.server.logs.get((pod, query.get("previous") == "true"))
        body = b"" if text is None else lines_of(text, query).encode()
        self.send_response(200 if kind == "containerLogs" else 404)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _tls() -> ssl.SSLContext:
    """With a certificate that nobody signed, as that of a node is until somebody does."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "scripted-node")])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = built.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        pem = serialization.Encoding.PEM
        clear = serialization.NoEncryption()
        file.write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, clear))
        file.write(certificate.public_bytes(pem))
        file.flush()
        context.load_cert_chain(Path(file.name))
    return context
