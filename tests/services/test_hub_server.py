"""The Hub server under the unmodified official client."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from modelops_dagster.domain.errors import InvalidSpec, PortTaken, UserError
from modelops_dagster.services.hub_server import HubServer, RepoSettings, publish, read_tokens
from modelops_dagster.services.hub_server.storage import HubStorage
from tests.fakes.hub import TOKEN, noise, running_hub, safetensors, write_repo


def api(server: HubServer, token: str | bool = False) -> HfApi:
    return HfApi(endpoint=server.url, token=token)


def test_the_official_client_reads_everything_about_a_model(tmp_path: Path):
    folder = write_repo(tmp_path / "acme" / "one")
    (folder / "sub").mkdir()
    (folder / "sub" / "notes.txt").write_text("x")
    with running_hub(tmp_path) as server:
        hub = api(server)
        info = hub.model_info("acme/one", files_metadata=True)
        assert info.sha and len(info.sha) == 40
        files = {s.rfilename: s for s in info.siblings or []}
        weights = (folder / "model.safetensors").read_bytes()
        assert files["model.safetensors"].lfs.sha256 == hashlib.sha256(weights).hexdigest()
        assert files["config.json"].size == (folder / "config.json").stat().st_size
        assert info.safetensors.total == 4
        assert info.config["architectures"] == ["LlamaForCausalLM"]
        assert info.card_data.license == "apache-2.0"
        assert "license:apache-2.0" in info.tags
        top = {e.path for e in hub.list_repo_tree("acme/one")}
        assert "sub" in top and "sub/notes.txt" not in top
        assert [e.path for e in hub.list_repo_tree("acme/one", "sub")] == ["sub/notes.txt"]
        assert "sub/notes.txt" in hub.list_repo_files("acme/one")
        assert hub.get_paths_info("acme/one", ["config.json", "none"])[0].path == "config.json"
        assert hub.file_exists("acme/one", "config.json") and not hub.file_exists("acme/one", "none")
        assert hub.list_repo_refs("acme/one").branches[0].target_commit == info.sha
        assert [c.commit_id for c in hub.list_repo_commits("acme/one")] == [info.sha]
        assert hub.model_info("acme/one", revision=info.sha).sha == info.sha
        assert hub.get_safetensors_metadata("acme/one").parameter_count == {"U8": 4}
        hub.auth_check("acme/one")
        with pytest.raises(RemoteEntryNotFoundError):
            list(hub.list_repo_tree("acme/one", "additional_chat_templates"))


def test_a_snapshot_is_what_was_put_there(tmp_path: Path):
    folder = write_repo(tmp_path / "hub" / "acme" / "one", weights=noise(3_000_000))
    with running_hub(tmp_path / "hub") as server:
        got = snapshot_download("acme/one", endpoint=server.url, token=False, local_dir=tmp_path / "got")
        for path in folder.iterdir():
            assert (Path(got) / path.name).read_bytes() == path.read_bytes()
        sha = api(server).model_info("acme/one").sha
        checked = api(server).verify_repo_checksums("acme/one", revision=sha, local_dir=tmp_path / "got")
        assert checked.checked_count == 5 and not checked.mismatches and not checked.missing_paths


def test_listings_are_paged_and_filtered(tmp_path: Path):
    for n in range(7):
        write_repo(tmp_path / "acme" / f"m{n}", weights=bytes([n] * 4))
    write_repo(tmp_path / "other" / "x")
    with running_hub(tmp_path, page_size=3) as server:
        expand = ["sha", "siblings", "createdAt", "gated"]
        found = list(api(server).list_models(author="acme", expand=expand))
        assert sorted(m.id for m in found) == [f"acme/m{n}" for n in range(7)]
        assert all(m.sha and m.siblings for m in found)
        pages = [r for r in server.faults.requests if r.startswith("GET /api/models")]
        assert len(pages) == 3
        assert [m.id for m in api(server).list_models(search="OTHER")] == ["other/x"]
        assert len(list(api(server).list_models(author="acme", limit=2))) == 2
        newest = list(api(server).list_models(author="acme", sort="created_at", expand=["createdAt"]))
        assert newest[0].created_at >= newest[-1].created_at
        assert list(api(server).list_models(author="nobody")) == []


def test_a_new_upload_is_a_new_commit_and_the_old_one_stays(tmp_path: Path):
    root = tmp_path / "hub"
    first = publish(root, "acme/one", write_repo(tmp_path / "a", weights=b"old!"))
    with running_hub(root) as server:
        second = publish(root, "acme/one", write_repo(tmp_path / "b", weights=b"new!"))
        assert first.commit_hash != second.commit_hash
        hub = api(server)
        assert hub.model_info("acme/one").sha == second.commit_hash
        assert hub.model_info("acme/one", revision=first.commit_hash).sha == first.commit_hash
        assert [c.commit_id for c in hub.list_repo_commits("acme/one")] == [second.commit_hash, first.commit_hash]
        for commit, content in ((first, b"old!"), (second, b"new!")):
            got = hf_hub_download(
                "acme/one", "model.safetensors", revision=commit.commit_hash, endpoint=server.url, token=False,
                cache_dir=tmp_path / "cache",
            )  # fmt: skip
            assert Path(got).read_bytes() == safetensors(content)
        assert (root / "acme" / "one" / "model.safetensors").read_bytes() == safetensors(b"new!")
        with pytest.raises(RevisionNotFoundError):
            hub.model_info("acme/one", revision="0" * 40)


def test_publishing_the_same_again_changes_nothing(tmp_path: Path):
    source = write_repo(tmp_path / "a")
    first = publish(tmp_path / "hub", "acme/one", source)
    again = publish(tmp_path / "hub", "acme/one", source)
    assert first == again
    objects = list((tmp_path / "hub" / ".objects").glob("*/*"))
    assert len(objects) == 5


def test_files_that_disappear_from_the_source_disappear_from_main(tmp_path: Path):
    source = write_repo(tmp_path / "a")
    publish(tmp_path / "hub", "acme/one", source)
    (source / "README.md").unlink()
    commit = publish(tmp_path / "hub", "acme/one", source)
    assert "README.md" not in {f.path for f in commit.files}
    assert not (tmp_path / "hub" / "acme" / "one" / "README.md").exists()


def test_readers_never_see_half_a_publication(tmp_path: Path):
    """One thread publishes two states in turn while the listing is read: it is always one of the two."""
    root = tmp_path / "hub"
    a = write_repo(tmp_path / "a", weights=b"aaaa")
    b = write_repo(tmp_path / "b", weights=b"bbbb")
    for n in range(30):
        (b / f"extra-{n}.txt").write_text("b")
    known = {publish(root, "acme/one", a).commit_hash, publish(root, "acme/one", b).commit_hash}
    seen: set[str] = set()
    with running_hub(root) as server:
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                for item in httpx.get(f"{server.url}/api/models", params={"expand": "sha"}).json():
                    seen.add(item["sha"])

        readers = [threading.Thread(target=read) for _ in range(2)]
        for r in readers:
            r.start()
        for n in range(12):
            publish(root, "acme/one", a if n % 2 == 0 else b)
        stop.set()
        for r in readers:
            r.join()
    assert seen <= known and seen


def test_a_killed_publication_leaves_the_previous_commit_and_the_next_completes_it(tmp_path: Path):
    root = tmp_path / "hub"
    first = publish(root, "acme/one", write_repo(tmp_path / "a", weights=b"old!"))
    storage = HubStorage(root)
    storage.marker("acme/one").touch()  # what a publication killed while it replaced the folder leaves behind
    (root / "acme" / "one" / "model.safetensors").unlink()
    with running_hub(root) as server:
        assert api(server).model_info("acme/one").sha == first.commit_hash
        got = hf_hub_download("acme/one", "model.safetensors", endpoint=server.url, local_dir=tmp_path / "got")
        assert Path(got).read_bytes() == safetensors(b"old!")
        second = publish(root, "acme/one", write_repo(tmp_path / "b", weights=b"new!"))
        assert api(server).model_info("acme/one").sha == second.commit_hash
    assert not storage.marker("acme/one").exists()


def test_a_commit_whose_bytes_were_overwritten_is_refused_and_not_served_wrong(tmp_path: Path):
    folder = write_repo(tmp_path / "acme" / "one", weights=b"old!")
    with running_hub(tmp_path) as server:
        old = api(server).model_info("acme/one").sha
        with (folder / "model.safetensors").open("r+b") as out:  # in place: the object is the same inode
            out.seek(-4, os.SEEK_END)
            out.write(b"new!")
        os.utime(folder / "model.safetensors", (1, 1))
        assert api(server).model_info("acme/one").sha != old
        answer = httpx.get(f"{server.url}/acme/one/resolve/{old}/model.safetensors")
        assert answer.status_code == 404
        assert answer.headers["X-Error-Code"] == "EntryNotFound"
        assert httpx.get(f"{server.url}/acme/one/resolve/main/model.safetensors").content == safetensors(b"new!")


def test_a_restart_reads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    publish(tmp_path / "hub", "acme/published", write_repo(tmp_path / "a"))
    write_repo(tmp_path / "hub" / "acme" / "dropped")
    with running_hub(tmp_path / "hub") as server:
        before = {m.id: m.sha for m in api(server).list_models(expand=["sha"])}

    def refuse(path: Path, on_bytes: object = None) -> None:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr("modelops_dagster.services.hub_server.folders.hash_file", refuse)
    with running_hub(tmp_path / "hub") as server:
        assert {m.id: m.sha for m in api(server).list_models(expand=["sha"])} == before
        assert httpx.get(f"{server.url}/acme/dropped/resolve/main/model.safetensors").status_code == 200


def test_private_gated_and_disabled_repositories(tmp_path: Path):
    for name in ("secret", "gated", "off"):
        write_repo(tmp_path / "acme" / name, weights=name[:4].ljust(4).encode())
    (tmp_path / "acme" / "secret.hub.json").write_text(json.dumps({"private": True}))
    (tmp_path / "acme" / "gated.hub.json").write_text(json.dumps({"gated": "manual", "license": "llama3"}))
    (tmp_path / "acme" / "off.hub.json").write_text(json.dumps({"disabled": True}))
    with running_hub(tmp_path) as server:
        stranger, friend = api(server), api(server, TOKEN)
        assert {m.id for m in stranger.list_models()} == {"acme/gated", "acme/off"}
        assert {m.id for m in friend.list_models()} == {"acme/gated", "acme/off", "acme/secret"}
        with pytest.raises(RepositoryNotFoundError):
            stranger.model_info("acme/secret")
        assert friend.model_info("acme/secret").private
        assert stranger.model_info("acme/gated").gated == "manual"
        for token in (False, "hf_of_somebody_else"):
            with pytest.raises(GatedRepoError):
                hf_hub_download("acme/gated", "config.json", endpoint=server.url, token=token, local_dir=tmp_path / "x")
            with pytest.raises(GatedRepoError):
                api(server, token).auth_check("acme/gated")
        hf_hub_download("acme/gated", "config.json", endpoint=server.url, token=TOKEN, local_dir=tmp_path / "y")
        with pytest.raises(DisabledRepoError):
            stranger.model_info("acme/off")
        with pytest.raises(RepositoryNotFoundError):
            stranger.model_info("acme/none")
        assert httpx.get(f"{server.url}/api/whoami-v2").status_code == 401
        assert httpx.get(f"{server.url}/api/agent-harnesses").status_code == 404


def test_settings_that_do_not_hold_are_named(tmp_path: Path):
    write_repo(tmp_path / "acme" / "one")
    (tmp_path / "acme" / "one.hub.json").write_text('{"gatd": true}')
    with running_hub(tmp_path) as server:
        answer = httpx.get(f"{server.url}/api/models/acme/one")
    assert answer.status_code == 500
    assert "gatd" in answer.json()["error"]


def test_nothing_outside_a_repository_is_reachable(tmp_path: Path):
    root = tmp_path / "hub"
    folder = write_repo(root / "acme" / "one")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "links").symlink_to(tmp_path)
    (folder / ".hidden").write_text("hidden")
    (root / "acme" / "linked").symlink_to(tmp_path)
    with running_hub(root) as server:
        paths = [
            "/acme/one/resolve/main/../../../../secret.txt",
            "/acme/one/resolve/main/..%2f..%2f..%2fsecret.txt",
            "/acme/one/resolve/main/%2e%2e/%2e%2e/%2e%2e/secret.txt",
            "/acme/one/resolve/main//etc/passwd",
            "/acme/one/resolve/main/link.txt",
            "/acme/one/resolve/main/links/secret.txt",
            "/acme/one/resolve/main/.hidden",
            "/acme/linked/resolve/main/secret.txt",
            "/acme/one/resolve/..%2f..%2fmain/config.json",
            "/.commits/acme/resolve/main/one/main.json",
            "/acme/..%2f../resolve/main/secret.txt",
            "/api/models/acme/..%2f..",
            "/api/models/../../secret.txt",
            "/acme/one.hub.json",
        ]
        for path in paths:
            with socket.create_connection(("127.0.0.1", server.port)) as raw:  # a client would tidy the path up
                raw.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda raw=raw: raw.recv(65536), b""))
            assert answer.split()[1] in (b"404", b"401", b"400"), (path, answer[:80])
            assert b"secret\n" not in answer and b"root:" not in answer
        names = {e.path for e in api(server).list_repo_tree("acme/one", recursive=True)}
        assert names == {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def test_ranges_and_heads(tmp_path: Path):
    body = (write_repo(tmp_path / "acme" / "one", weights=noise(1000)) / "model.safetensors").read_bytes()
    with running_hub(tmp_path) as server:
        url = f"{server.url}/acme/one/resolve/main/model.safetensors"
        head = httpx.head(url)
        assert head.status_code == 200 and head.content == b""
        assert head.headers["Content-Length"] == str(len(body)) == head.headers["X-Linked-Size"]
        assert head.headers["ETag"] == f'"{hashlib.sha256(body).hexdigest()}"'
        for header, part in (("bytes=10-19", body[10:20]), ("bytes=1000-", body[1000:]), ("bytes=-5", body[-5:])):
            answer = httpx.get(url, headers={"Range": header})
            assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["Content-Range"] == f"bytes {len(body) - 5}-{len(body) - 1}/{len(body)}"
        assert httpx.get(url, headers={"Range": "bytes=99999-"}).status_code == 416
        assert httpx.get(url, headers={"Range": "bytes=0-1,3-4"}).content == body
        missing = httpx.head(f"{server.url}/acme/one/resolve/main/none")
        assert missing.status_code == 404 and len(missing.headers["X-Repo-Commit"]) == 40


def test_publish_refuses_what_is_not_a_model(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidSpec, match="no files"):
        publish(tmp_path / "hub", "acme/one", tmp_path / "empty")
    with pytest.raises(InvalidSpec, match="org/name"):
        publish(tmp_path / "hub", "../one", write_repo(tmp_path / "a"))


def test_a_snapshot_of_links_can_be_published(tmp_path: Path):
    """The official client's cache is made of links into a folder of blobs."""
    source = write_repo(tmp_path / "a")
    (tmp_path / "blob").write_bytes(safetensors(b"blob"))
    (source / "model.safetensors").unlink()
    (source / "model.safetensors").symlink_to(tmp_path / "blob")
    publish(tmp_path / "hub", "acme/one", source, settings=RepoSettings(gated="auto"))
    published = tmp_path / "hub" / "acme" / "one" / "model.safetensors"
    assert not published.is_symlink() and published.read_bytes() == safetensors(b"blob")
    assert HubStorage(tmp_path / "hub").settings("acme/one").gated == "auto"


def test_a_taken_port_and_a_bad_folder_are_said(tmp_path: Path):
    with running_hub(tmp_path) as server, pytest.raises(PortTaken, match=str(server.port)):
        HubServer(tmp_path, port=server.port)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be served"):
        HubServer(tmp_path / "file")
    (tmp_path / "tokens").write_text("# none\n\n")
    with pytest.raises(UserError, match="no token"):
        read_tokens(tmp_path / "tokens")


def test_the_command_serves_and_publishes(tmp_path: Path):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# one a line\n{TOKEN}\n")
    modelops = [sys.executable, "-c", "from modelops_dagster.cli.main import main; main()", "hub"]
    published = subprocess.run(
        [*modelops, "publish", str(tmp_path / "hub"), "acme/one", str(write_repo(tmp_path / "a")), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    served = [*modelops, "serve", str(tmp_path / "hub"), "--port", "0", "--token-file", str(tokens), "--json"]
    with subprocess.Popen(served, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "}\n")
        ready = json.loads("".join([*lines, "}"]))
        assert ready["repositories"] == 1
        info = HfApi(endpoint=ready["url"], token=False).model_info("acme/one")
        assert info.sha == json.loads(published.stdout)["commit_hash"]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
