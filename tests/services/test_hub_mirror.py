"""What a site that cannot reach the Hub needs: mirrored revisions, refs, hashed tokens, limits, pushes."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from huggingface_hub import HfApi, WebhookPayload, snapshot_download

from modelops_dagster.clients.checkpoints.digests import hash_file
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.domain.errors import HubUnavailable, InvalidSpec, RepoGated, UserError
from modelops_dagster.services.controller.hub_webhook import pushed_orgs
from modelops_dagster.services.hub_server import (
    HubServer,
    Limits,
    RepoSettings,
    Webhook,
    create_token,
    mirror,
    name_commit,
    publish,
    read_secret,
    read_tokens,
)
from modelops_dagster.services.hub_server.storage import HubStorage
from tests.fakes.alert_receivers import HttpReceiver
from tests.fakes.hub import TOKEN, client, downloads, noise, running_hub, safetensors, write_repo

WEIGHTS = noise(3_000_000)


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[HubServer]:
    with running_hub(tmp_path / "upstream") as server:
        yield server


def api(server: HubServer, token: str | bool = False) -> HfApi:
    return HfApi(endpoint=server.url, token=token)


def carried(upstream: HubServer, tmp_path: Path) -> tuple[Path, str]:
    """A mirror of acme/one whose commit hash no local computation could have found."""
    commit = publish(upstream.root, "acme/one", write_repo(tmp_path / "source", weights=WEIGHTS))
    foreign = "f" * 40
    storage = HubStorage(upstream.root)
    hidden = commit.files[0].model_copy(update={"path": ".eval_results/one.yaml"})  # as some repositories have
    renamed = storage.write_commit("acme/one", [*commit.files, hidden], foreign)
    storage.move_main("acme/one", renamed, _main(upstream.root)["folder_state"])
    mirror(tmp_path / "mirror", "acme/one", client(upstream))
    return tmp_path / "mirror", foreign


def _main(root: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((root / ".commits" / "acme" / "one" / "main.json").read_text())
    return found


def test_a_mirrored_revision_keeps_its_hash_its_files_and_what_was_said_of_it(upstream: HubServer, tmp_path: Path):
    settings = RepoSettings(tags=("special",), pipeline_tag="fill-mask")
    source = write_repo(tmp_path / "source", weights=WEIGHTS)
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "x.txt").write_text("x")
    commit = publish(upstream.root, "acme/one", source, settings=settings)
    shares: list[float] = []
    done = mirror(
        tmp_path / "mirror", "acme/one", client(upstream), progress=lambda at, total: shares.append(at / total)
    )
    assert (done.commit_hash, done.files, done.main_moved) == (commit.commit_hash, 6, True)
    assert done.fetched_bytes == done.size_bytes > 3_000_000
    assert shares[-1] == 1.0
    assert not list((tmp_path / "mirror" / ".mirroring").rglob("*.*"))
    with running_hub(tmp_path / "mirror") as copy:
        info, there = api(copy).model_info("acme/one"), api(upstream).model_info("acme/one")
        assert (info.sha, info.created_at, info.pipeline_tag) == (there.sha, there.created_at, "fill-mask")
        assert set(there.tags or []) == set(info.tags or [])
        got = Path(snapshot_download("acme/one", endpoint=copy.url, token=False, local_dir=tmp_path / "got"))
        assert (got / "model.safetensors").read_bytes() == safetensors(WEIGHTS)
        assert (got / "deep" / "er" / "x.txt").read_text() == "x"


def test_mirroring_again_fetches_nothing_and_a_new_revision_only_what_changed(upstream: HubServer, tmp_path: Path):
    source = write_repo(tmp_path / "source", weights=WEIGHTS)
    first = publish(upstream.root, "acme/one", source)
    root = tmp_path / "mirror"
    mirror(root, "acme/one", client(upstream))
    before = len(downloads(upstream))
    again = mirror(root, "acme/one", client(upstream))
    assert (again.fetched_bytes, again.main_moved) == (0, False)
    assert all("json" in r for r in downloads(upstream)[before:])  # what `release` reads; no weight
    write_repo(source, weights=WEIGHTS, config={"max_position_embeddings": 1})
    second = publish(upstream.root, "acme/one", source)
    done = mirror(root, "acme/one", client(upstream))
    assert done.main_moved and done.fetched_bytes < 1000
    assert sum("model.safetensors" in r for r in downloads(upstream)) == 1
    with running_hub(root) as copy:
        history = [c.commit_id for c in api(copy).list_repo_commits("acme/one")]
        assert history == [second.commit_hash, first.commit_hash]
        assert api(copy).model_info("acme/one", revision=first.commit_hash).sha == first.commit_hash


def test_a_cut_mirroring_goes_on_at_the_byte(upstream: HubServer, tmp_path: Path):
    publish(upstream.root, "acme/one", write_repo(tmp_path / "source", weights=WEIGHTS))
    upstream.faults.only, upstream.faults.cut_after_bytes, upstream.faults.cuts = "model.safetensors", 2_000_000, 99
    impatient = HubClient(upstream.url, None, timeout_s=5.0, max_tries=1)
    with pytest.raises(HubUnavailable):
        mirror(tmp_path / "mirror", "acme/one", impatient)
    with running_hub(tmp_path / "mirror") as copy:
        assert list(api(copy).list_models()) == []  # nobody sees half of it
    upstream.faults.cuts = 0
    mirror(tmp_path / "mirror", "acme/one", client(upstream))
    ranges = [r for r in downloads(upstream) if "model.safetensors" in r and "[bytes=" in r]
    assert ranges and not any("[bytes=0-" in r for r in ranges)
    kept = (tmp_path / "mirror" / "acme" / "one" / "model.safetensors").read_bytes()
    assert hashlib.sha256(kept).hexdigest() == hashlib.sha256(safetensors(WEIGHTS)).hexdigest()


def test_a_copied_mirror_keeps_the_hashes_it_cannot_compute(upstream: HubServer, tmp_path: Path):
    """Copying changes times and, without care, loses hard links; the revision must not become another one."""
    root, foreign = carried(upstream, tmp_path)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    with running_hub(tmp_path / "copy") as copy:
        assert api(copy).model_info("acme/one").sha == foreign
        assert [m.sha for m in api(copy).list_models(expand=["sha"])] == [foreign]
        assert ".eval_results/one.yaml" in api(copy).list_repo_files("acme/one")
        snapshot_download("acme/one", endpoint=copy.url, token=False, revision=foreign, local_dir=tmp_path / "got")
    assert (tmp_path / "got" / "model.safetensors").read_bytes() == safetensors(WEIGHTS)


def test_what_was_spoiled_on_the_way_is_not_served(upstream: HubServer, tmp_path: Path):
    root, foreign = carried(upstream, tmp_path)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    digest = hashlib.sha256(safetensors(WEIGHTS)).hexdigest()
    kept = tmp_path / "copy" / ".objects" / digest[:2] / digest
    kept.write_bytes(safetensors(WEIGHTS)[:-1] + b"?")
    with running_hub(tmp_path / "copy") as copy:
        answer = httpx.get(f"{copy.url}/acme/one/resolve/{foreign}/model.safetensors")
        assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "EntryNotFound")
        assert httpx.get(f"{copy.url}/acme/one/resolve/{foreign}/config.json").status_code == 200


def test_clients_that_come_at_once_have_a_content_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commit = publish(tmp_path, "acme/one", write_repo(tmp_path / "source", weights=WEIGHTS))
    (tmp_path / ".objects" / "digests.jsonl").unlink()
    read: list[Path] = []

    def counted(path: Path, on_bytes: Callable[[int], None] | None = None) -> tuple[int, str, str]:
        read.append(path)
        time.sleep(0.2)  # so that the others come meanwhile
        return hash_file(path, on_bytes)

    monkeypatch.setattr("modelops_dagster.services.hub_server.folders.hash_file", counted)
    storage = HubStorage(tmp_path)
    weights = next(f for f in commit.files if f.path == "model.safetensors")
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: storage.content(weights), range(4)))) == 1
    assert len(read) == 1


def test_a_tag_a_branch_and_a_hash_are_mirrored_as_what_they_are(upstream: HubServer, tmp_path: Path):
    commits = [
        publish(upstream.root, "acme/one", write_repo(tmp_path / "source", weights=w)).commit_hash
        for w in (b"1111", b"2222", b"3333", b"4444")
    ]
    name_commit(upstream.root, "acme/one", "tag", "v1", commits[0])
    name_commit(upstream.root, "acme/one", "branch", "dev", commits[1])
    root = tmp_path / "mirror"
    assert mirror(root, "acme/one", client(upstream)).commit_hash == commits[3]
    for ref in ("v1", "dev", commits[2]):
        assert not mirror(root, "acme/one", client(upstream), ref=ref).main_moved
    with running_hub(root) as copy:
        refs = api(copy).list_repo_refs("acme/one")
        assert {t.name: t.target_commit for t in refs.tags} == {"v1": commits[0]}
        assert {b.name: b.target_commit for b in refs.branches} == {"main": commits[3], "dev": commits[1]}
        assert api(copy).model_info("acme/one", revision=commits[2]).sha == commits[2]


def test_a_gate_is_kept_unless_it_is_opened_and_stays_as_it_was_set_here(upstream: HubServer, tmp_path: Path):
    publish(
        upstream.root, "acme/one", write_repo(tmp_path / "source"), settings=RepoSettings(gated="manual", private=True)
    )
    friend = HubClient(upstream.url, TOKEN, timeout_s=5.0, max_tries=2)
    mirror(tmp_path / "kept", "acme/one", friend)
    assert HubStorage(tmp_path / "kept").settings("acme/one").gated == "manual"
    assert HubStorage(tmp_path / "kept").settings("acme/one").private
    mirror(tmp_path / "open", "acme/one", friend, keep_gate=False)
    mirror(tmp_path / "open", "acme/one", friend)
    assert HubStorage(tmp_path / "open").settings("acme/one").gated is False
    publish(upstream.root, "acme/one", write_repo(tmp_path / "source"), settings=RepoSettings(gated="manual"))
    with pytest.raises(RepoGated, match="HF_TOKEN"):
        mirror(tmp_path / "refused", "acme/one", client(upstream))


def test_what_cannot_name_a_commit_is_refused(tmp_path: Path):
    root = tmp_path / "hub"
    commit = publish(root, "acme/one", write_repo(tmp_path / "source"))
    for name in ("main", "../x", "a..b", "", "-x", "0" * 40):
        with pytest.raises(InvalidSpec, match="cannot name"):
            name_commit(root, "acme/one", "tag", name, commit.commit_hash)
    with pytest.raises(InvalidSpec, match="no commit"):
        name_commit(root, "acme/one", "tag", "v1", "0" * 40)
    with pytest.raises(InvalidSpec, match="no repository"):
        name_commit(root, "acme/none", "tag", "v1")


def test_a_pages_cursor_survives_what_happens_between_two_pages(tmp_path: Path):
    for n in range(6):
        write_repo(tmp_path / "acme" / f"m{n}", weights=bytes([n] * 4))
    with running_hub(tmp_path, page_size=2) as server:
        first = httpx.get(f"{server.url}/api/models", params={"author": "acme"})
        shutil.rmtree(tmp_path / "acme" / "m0")  # an offset would now skip m2
        write_repo(tmp_path / "acme" / "a-new-one", weights=b"new!")
        seen, url = [m["id"] for m in first.json()], first.links["next"]["url"]
        while url:
            page = httpx.get(url)
            seen += [m["id"] for m in page.json()]
            url = page.links.get("next", {}).get("url")
        assert seen == [f"acme/m{n}" for n in range(6)]
        for query in ({"cursor": "nonsense"}, {"sort": "colour"}, {"num_parameters": "many"}, {"apps": "vllm"}):
            assert httpx.get(f"{server.url}/api/models", params=query).status_code == 400


def test_a_copy_that_is_still_good_is_not_sent_again(tmp_path: Path):
    write_repo(tmp_path / "acme" / "one")
    with running_hub(tmp_path) as server:
        url = f"{server.url}/acme/one/resolve/main/model.safetensors"
        etag = httpx.head(url).headers["ETag"]
        for header in (etag, f'"other", W/{etag}', "*"):
            answer = httpx.get(url, headers={"If-None-Match": header})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["ETag"] == etag
        assert httpx.get(url, headers={"If-None-Match": '"other"'}).status_code == 200
        part = {"Range": "bytes=0-3"}
        assert httpx.get(url, headers={**part, "If-Range": etag}).status_code == 206
        assert httpx.get(url, headers={**part, "If-Range": '"other"'}).status_code == 200


def test_many_clients_of_a_large_file_cost_little_memory(tmp_path: Path):
    folder = write_repo(tmp_path / "acme" / "one")
    with (folder / "model.safetensors").open("wb") as out:
        out.truncate(64 << 20)  # a hole: quick to make, as long to send
    with running_hub(tmp_path) as server:
        url = f"{server.url}/acme/one/resolve/main/model.safetensors"
        assert httpx.head(url, timeout=60).status_code == 200  # hashed once, here
        before = psutil.Process().memory_info().rss

        def fetch(_: int) -> int:
            with httpx.stream("GET", url, timeout=60) as answer:
                return sum(len(piece) for piece in answer.iter_raw())

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(fetch, range(4))) == [64 << 20] * 4
        assert psutil.Process().memory_info().rss - before < 48 << 20


def test_tokens_are_kept_as_digests_and_have_a_name(tmp_path: Path):
    token_file = tmp_path / "tokens"
    token = create_token(token_file, "ci")
    assert token not in token_file.read_text()
    assert token_file.stat().st_mode & 0o777 == 0o600
    publish(tmp_path / "hub", "acme/one", write_repo(tmp_path / "source"), settings=RepoSettings(private=True))
    with HubServer(tmp_path / "hub", tokens=read_tokens(token_file, tmp_path / "hub")) as server:
        assert api(server, token).whoami()["name"] == "ci"
        assert api(server, token).model_info("acme/one").private
        digest = token_file.read_text().split()[0].removeprefix("sha256:")
        for wrong in (digest, f"sha256:{digest}", token[:-1]):
            asked = httpx.get(f"{server.url}/api/models/acme/one", headers={"Authorization": f"Bearer {wrong}"})
            assert asked.status_code == 401
    with pytest.raises(InvalidSpec, match="account"):
        create_token(token_file, "two words")


def test_a_token_in_clear_in_the_served_folder_is_refused(tmp_path: Path):
    inside = tmp_path / "hub" / "tokens"
    inside.parent.mkdir()
    inside.write_text("hf_in_clear\n")
    with pytest.raises(UserError, match="in clear"):
        read_tokens(inside, tmp_path / "hub")
    inside.write_text(f"sha256:{hashlib.sha256(b'hf').hexdigest()} somebody\n")
    assert len(read_tokens(inside, tmp_path / "hub")) == 1


def test_a_limit_counts_callers_and_kinds_apart_and_ends_with_its_window():
    now = [0.0]
    limits = Limits(2, 10.0, clock=lambda: now[0])
    assert [limits.take("a", "api").granted for _ in range(3)] == [True, True, False]
    assert limits.take("b", "api").granted and limits.take("a", "resolvers").granted
    now[0] = 4.5
    refused = limits.take("a", "api")
    assert refused.headers == {
        "RateLimit": '"api";r=0;t=6',
        "RateLimit-Policy": '"fixed window";"api";q=2;w=10',
        "Retry-After": "6",
    }
    now[0] = 10.0
    assert limits.take("a", "api") == (True, {"RateLimit": '"api";r=1;t=10', **_policy()})


def _policy() -> dict[str, str]:
    return {"RateLimit-Policy": '"fixed window";"api";q=2;w=10'}


def test_our_own_client_waits_out_a_limit(tmp_path: Path):
    publish(tmp_path, "acme/one", write_repo(tmp_path / "source"))
    with HubServer(tmp_path, limits=Limits(1, 1.0)) as server:
        patient = HubClient(server.url, None, timeout_s=5.0, max_tries=4)
        assert len({patient.resolve("acme/one", "main") for _ in range(2)}) == 1


def test_a_publication_is_pushed_as_the_hub_pushes(tmp_path: Path):
    source = write_repo(tmp_path / "source")
    with HttpReceiver().running() as receiver:
        webhook = Webhook(receiver.url, "the secret", pause_s=0.0)
        first = publish(tmp_path / "hub", "acme/one", source, webhook=webhook)
        publish(tmp_path / "hub", "acme/one", source, webhook=webhook)  # nothing new, so nothing is said
        write_repo(source, weights=b"new!")
        second = publish(tmp_path / "hub", "acme/one", source, webhook=webhook)
        heads = [r.json()["repo"]["headSha"] for r in receiver.taken]
        assert heads == [first.commit_hash, second.commit_hash]
        assert all(r.headers["x-webhook-secret"] == "the secret" for r in receiver.taken)
        assert [WebhookPayload(**r.json()).event.action for r in receiver.taken] == ["create", "update"]
        assert [pushed_orgs(r.body) for r in receiver.taken] == [("acme",), ("acme",)]
    with pytest.raises(HubUnavailable, match="did not take the news"):
        publish(tmp_path / "hub", "acme/one", write_repo(source, weights=b"more"), webhook=webhook)
    assert [c.commit_hash for c in HubStorage(tmp_path / "hub").history("acme/one")][1:] == [
        second.commit_hash,
        first.commit_hash,
    ]


def test_a_secret_file_that_says_nothing_is_refused(tmp_path: Path):
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "none"):
        with pytest.raises(UserError, match="secret"):
            read_secret(tmp_path / name)
    with pytest.raises(InvalidSpec, match="http"):
        Webhook("localhost:1", "secret")


def test_a_proxy_that_speaks_tls_is_led_to_its_own_address(tmp_path: Path):
    for n in range(2):
        write_repo(tmp_path / "acme" / f"m{n}", weights=bytes([n] * 4))
    with running_hub(tmp_path, page_size=1) as server:
        proxied = {"Host": "hub.example", "X-Forwarded-Proto": "https"}
        link = httpx.get(f"{server.url}/api/models", headers=proxied).links["next"]["url"]
        assert link.startswith("https://hub.example/api/models?cursor=")


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"paths": 5}', b"{}", b"\xff"])
def test_paths_that_cannot_be_read_are_refused(tmp_path: Path, body: bytes):
    write_repo(tmp_path / "acme" / "one")
    with running_hub(tmp_path) as server:
        url = f"{server.url}/api/models/acme/one/paths-info/main"
        assert httpx.post(url, content=body, headers={"Content-Type": "application/json"}).status_code == 400
        assert [e["path"] for e in httpx.post(url, json={"paths": "config.json"}).json()] == ["config.json"]
