"""The Hub client against a real server: what it reads, and the sentence every failure ends in."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from modelops_dagster.clients.hub import HubClient
from modelops_dagster.domain.errors import (
    HubUnavailable,
    IntegrityError,
    InvalidSpec,
    ModelOpsError,
    RepoGated,
    RepoNotFound,
)
from modelops_dagster.domain.hub import ModelRevision, RepoFile
from modelops_dagster.services.hub_server import HubServer, publish
from tests.fakes.hub import TOKEN, noise, running_hub, safetensors, write_repo

COMMIT = "0123456789" * 4


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    write_repo(tmp_path / "hub" / "acme" / "one")
    with running_hub(tmp_path / "hub") as server:
        yield server


def client(server: HubServer, token: str | None = None, **options: float) -> HubClient:
    return HubClient(server.url, token, **{"timeout_s": 5.0, "max_wait_s": 2.0, **options})  # type: ignore[arg-type]


def test_a_release_holds_what_can_be_known_without_weights(hub: HubServer):
    revision = client(hub).resolve("acme/one", "main")
    release = client(hub).release(revision)
    assert release.revision == revision and release.hub_url == hub.url
    assert release.architectures == ("LlamaForCausalLM",)
    assert (release.model_type, release.dtype, release.quantization) == ("llama", "bfloat16", None)
    assert (release.license, release.gated, release.max_context) == ("apache-2.0", None, 2048)
    assert release.has_chat_template and not release.remote_code
    assert release.parameters == 4
    assert release.weight_bytes == len(safetensors(b"1234"))
    files = {f.path: f for f in release.files}
    assert files["model.safetensors"].sha256 and files["config.json"].git_sha1
    assert not any("model.safetensors" in r and "resolve" in r for r in hub.faults.requests)


def test_configurations_are_read_however_they_are_written(hub: HubServer, tmp_path: Path):
    nested = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {"max_position_embeddings": 131072, "torch_dtype": "float16"},
        "quantization_config": {"quant_method": "fp8"},
        "auto_map": {"AutoModel": "modeling.X"},
    }
    source = write_repo(tmp_path / "a")
    (source / "config.json").write_text(json.dumps(nested))
    (source / "tokenizer_config.json").write_text("{}")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "README.md").unlink()
    publish(hub.root, "acme/two", source)
    release = client(hub).release(client(hub).resolve("acme/two", "main"))
    assert (release.max_context, release.dtype, release.quantization) == (131072, "float16", "fp8")
    assert release.remote_code and release.has_chat_template and release.license is None
    (source / "chat_template.jinja").unlink()
    publish(hub.root, "acme/two", source)
    assert not client(hub).release(client(hub).resolve("acme/two", "main")).has_chat_template


def test_the_whole_listing_is_read_page_by_page(tmp_path: Path):
    for n in range(7):
        write_repo(tmp_path / "acme" / f"m{n}", weights=bytes([n] * 4))
    with running_hub(tmp_path, page_size=2) as server:
        listing = client(server).list_org("acme")
        assert sorted(r.repo_id for r in listing) == [f"acme/m{n}" for n in range(7)]
        assert all("config.json" in r.files and r.created_at for r in listing)
        assert client(server).list_org("nobody") == []


def test_a_listing_whose_last_page_fails_is_no_listing(tmp_path: Path):
    for n in range(4):
        write_repo(tmp_path / "acme" / f"m{n}", weights=bytes([n] * 4))
    with running_hub(tmp_path, page_size=2, only="/api/models") as server:
        hub = client(server, max_tries=2)
        items = hub._pages("acme")
        assert next(items)["id"] == "acme/m0"
        server.faults.unavailable = 2
        with pytest.raises(Exception, match="503"):
            list(items)
        server.faults.unavailable = 99
        with pytest.raises(HubUnavailable, match="503"):
            hub.list_org("acme")


def test_a_busy_hub_is_asked_again_within_bounds(hub: HubServer):
    hub.faults.rate_limited, hub.faults.retry_after_s = 2, 0
    assert client(hub).resolve("acme/one", "main").commit_hash
    hub.faults.unavailable = 2
    assert client(hub).list_org("acme")
    hub.faults.rate_limited, hub.faults.retry_after_s = 1, 3600
    started = time.monotonic()
    with pytest.raises(HubUnavailable, match="429"):  # a pause that long is somebody else's decision
        client(hub).resolve("acme/one", "main")
    assert time.monotonic() - started < 60
    hub.faults.rate_limited, hub.faults.retry_after_s = 99, 0
    before = len(hub.faults.requests)
    with pytest.raises(HubUnavailable, match="429"):
        client(hub).resolve("acme/one", "main")
    assert len(hub.faults.requests) - before == 4


@pytest.mark.parametrize(
    ("repo_id", "ref", "kind", "words"),
    [
        ("acme/none", "main", RepoNotFound, ["acme/none", "spelling", "HF_TOKEN"]),
        ("acme/secret", "main", RepoNotFound, ["acme/secret", "HF_TOKEN"]),
        ("acme/off", "main", RepoNotFound, ["disabled"]),
        ("acme/one", "nightly", InvalidSpec, ["'nightly'", "acme/one", "tree/main"]),
        ("acme/one", COMMIT, InvalidSpec, [COMMIT]),
        ("no-slash", "main", InvalidSpec, ["org/name"]),
        ("acme/../one", "main", InvalidSpec, ["org/name"]),
        ("acme/x--y..z", "main", InvalidSpec, ["org/name"]),
        ("acme/x--y", "main", InvalidSpec, ["org/name"]),
    ],
)
def test_what_cannot_be_resolved_ends_in_one_sentence(
    hub: HubServer, repo_id: str, ref: str, kind: type[ModelOpsError], words: list[str]
):
    for name in ("secret", "off"):
        write_repo(hub.root / "acme" / name)
    (hub.root / "acme" / "secret.hub.json").write_text('{"private": true}')
    (hub.root / "acme" / "off.hub.json").write_text('{"disabled": true}')
    with pytest.raises(kind) as caught:
        client(hub).resolve(repo_id, ref)
    assert all(w in caught.value.sentence for w in words), caught.value.sentence
    assert "\n" not in caught.value.sentence and len(caught.value.sentence) < 300


def test_a_gated_repository_says_where_to_accept_its_licence(hub: HubServer):
    (hub.root / "acme" / "one.hub.json").write_text('{"gated": "manual"}')
    revision = client(hub).resolve("acme/one", "main")
    with pytest.raises(RepoGated) as caught:
        client(hub).release(revision)
    assert f"{hub.url}/acme/one" in caught.value.sentence and "HF_TOKEN" in caught.value.sentence
    with pytest.raises(RepoGated, match="granted access"):
        client(hub, "hf_without_access").release(revision)
    assert client(hub, TOKEN).release(revision).gated == "manual"


def test_without_a_token_the_saved_one_of_the_user_is_not_sent(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (hub.root / "acme" / "one.hub.json").write_text('{"private": true}')
    with pytest.raises(RepoNotFound):
        client(hub).resolve("acme/one", "main")


def test_a_hub_that_is_not_there_and_an_address_that_is_no_hub():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(HubUnavailable, match="did not answer"):
        HubClient(f"http://127.0.0.1:{port}", None, max_tries=2).list_org("acme")
    with pytest.raises(InvalidSpec, match="http://"):
        HubClient("huggingface.co", None)

    class Web(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>sign in to the guest network</html>")

        def log_message(self, *args: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Web) as portal:
        threading.Thread(target=portal.serve_forever, daemon=True).start()
        elsewhere = HubClient(f"http://127.0.0.1:{portal.server_port}", None)
        for ask in (lambda: elsewhere.list_org("acme"), lambda: elsewhere.resolve("acme/one", "main")):
            with pytest.raises(HubUnavailable, match="base URL of a Hub"):
                ask()
        portal.shutdown()


def test_a_hub_that_hangs_is_given_up_on(hub: HubServer):
    hub.faults.delay_s = 30
    started = time.monotonic()
    with pytest.raises(HubUnavailable, match="did not answer"):
        client(hub, timeout_s=0.3, max_tries=2).list_org("acme")
    assert time.monotonic() - started < 25
    hub.faults.delay_s = 0


def test_a_small_file_that_is_not_what_the_listing_says(hub: HubServer):
    revision = client(hub).resolve("acme/one", "main")
    hub.faults.only, hub.faults.corrupt = "config.json", 1
    assert client(hub).release(revision).model_type == "llama"  # once is bad luck
    hub.faults.corrupt = 99
    with pytest.raises(IntegrityError, match=r"config\.json .*expected git blob"):
        client(hub).release(revision)


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_download_goes_on_where_it_was_cut(hub: HubServer, tmp_path: Path, reset: bool):
    content = safetensors(noise(9_000_000))
    publish(hub.root, "acme/big", write_repo(tmp_path / "a", weights=noise(9_000_000)))
    revision = client(hub).resolve("acme/big", "main")
    hub.faults.only, hub.faults.cuts, hub.faults.cut_after_bytes = "resolve", 2, 4_000_000
    hub.faults.cut_by_reset = reset
    positions: list[int] = []
    file = RepoFile(path="model.safetensors", size_bytes=len(content))
    client(hub).fetch_file(revision, file, tmp_path / "out", lambda size, _: positions.append(size))
    assert (tmp_path / "out").read_bytes() == content
    asked = [r for r in hub.faults.requests if "resolve" in r]
    assert len(asked) == 3 and "[bytes=" in asked[1] and "[bytes=" in asked[2]
    assert positions == sorted(positions) and positions[-1] == len(content)


def test_a_server_without_ranges_sends_the_file_again(hub: HubServer, tmp_path: Path):
    revision = client(hub).resolve("acme/one", "main")
    content = safetensors(b"1234")
    (tmp_path / "out").write_bytes(b"what an earlier process got")
    hub.faults.ignore_ranges = True
    client(hub).fetch_file(revision, RepoFile(path="model.safetensors", size_bytes=len(content)), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content


def test_a_file_too_large_for_plain_http_comes_by_the_official_client(hub: HubServer, tmp_path: Path):
    revision = client(hub).resolve("acme/one", "main")
    content = safetensors(b"1234")
    client(hub, max_http_bytes=10).fetch_file(
        revision, RepoFile(path="model.safetensors", size_bytes=len(content)), tmp_path / "out"
    )
    assert (tmp_path / "out").read_bytes() == content


def test_a_download_that_never_gets_anywhere_ends(hub: HubServer, tmp_path: Path):
    revision = client(hub).resolve("acme/one", "main")
    hub.faults.only, hub.faults.unavailable = "resolve", 99
    with pytest.raises(HubUnavailable, match="503"):
        client(hub, max_tries=2).fetch_file(
            revision, RepoFile(path="model.safetensors", size_bytes=99), tmp_path / "out"
        )
    hub.faults.unavailable = 0
    with pytest.raises(HubUnavailable, match="does not have"):
        client(hub).fetch_file(revision, RepoFile(path="gone.json", size_bytes=9), tmp_path / "gone")
    nowhere = ModelRevision(repo_id="acme/one", commit_hash=COMMIT)
    with pytest.raises(InvalidSpec):
        client(hub).fetch_file(nowhere, RepoFile(path="config.json", size_bytes=9), tmp_path / "nowhere")
