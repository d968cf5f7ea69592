"""Everything this product asks of a Hub.

The official client leaves three things to its caller: `model_info` and the first page of a listing are never retried,
a listing has no time limit, and a download starts from zero in a new process. So here every request has a time limit
and a bounded number of tries, and a file goes on at the byte where a killed process left it.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypeVar

from huggingface_hub import HfApi, constants, get_session, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from modelops_dagster.clients.hub.answers import gated_of, license_of, listing_of, repo_file, tree_file
from modelops_dagster.clients.hub.refusals import HTTP, pause_s, sentences, understood
from modelops_dagster.domain.errors import HubUnavailable, IntegrityError, InvalidSpec, RepoGated
from modelops_dagster.domain.findings import Documents
from modelops_dagster.domain.hub import ModelRevision, Release, RepoFile, require_repo_id
from modelops_dagster.domain.listings import RepoContent, RepoListing
from modelops_dagster.domain.model_config import ModelConfig, has_chat_template
from modelops_dagster.domain.repo_files import (
    content_digest,
    git_blob_sha1,
    is_weight,
    mismatch,
    sha256_of,
    wanted_files,
)

T = TypeVar("T")
OnBytes = Callable[[int, bytes], None]
LISTED = ["sha", "siblings", "tags", "pipeline_tag", "gated", "private", "disabled", "createdAt", "safetensors"]
PIECE_BYTES = 1 << 20
# config.json and tokenizer_config.json are kilobytes; what is larger than this is not read into memory
MAX_SMALL_FILE_BYTES = 16 << 20


class HubClient:
    """One Hub, as one account sees it.

    Args:
        endpoint: base URL, e.g. https://huggingface.co.
        token: access token; None asks anonymously, whatever token the machine's user has saved.
        timeout_s: how long one request may stay without an answer.
        max_tries: how often a request that the Hub or the network refused is made in all.
        max_wait_s: the longest single pause; a Hub that asks for a longer one counts as unavailable.
        max_http_bytes: the Hub refuses larger files over plain HTTP; they come by the official client's own protocol.
    """

    def __init__(
        self,
        endpoint: str,
        token: str | None,
        *,
        timeout_s: float = 20.0,
        max_tries: int = 4,
        max_wait_s: float = 60.0,
        max_http_bytes: int = constants.MAX_HTTP_DOWNLOAD_SIZE,
    ) -> None:
        if not endpoint.startswith(("http://", "https://")):
            raise InvalidSpec(
                f"{endpoint!r} is not the URL of a Hub: write it with http:// or https:// in front.", field="hub_url"
            )
        self.endpoint = endpoint.rstrip("/")
        self.timeout_s, self.max_tries, self.max_wait_s = timeout_s, max_tries, max_wait_s
        self.max_http_bytes = max_http_bytes
        self._token: str | bool = token or False
        self._api = HfApi(endpoint=self.endpoint, token=self._token)

    def list_org(self, org: str, deadline: float | None = None) -> list[RepoListing]:
        """Every model repository of an organisation that this account may see, all pages.

        Args:
            org: the organisation.
            deadline: no page is asked for after this `time.monotonic()`.

        Raises:
            HubUnavailable: a page could not be read, or the time was over. A partial listing is never returned.
        """
        what = f"the models of {org}"
        with self._sentences(what), self._understood(what):
            # a repository without a commit has no content yet
            return [listing_of(item) for item in self._pages(org, deadline) if item.get("sha")]

    def content(self, repo_id: str, commit_hash: str, *, gated: bool) -> RepoContent:
        """What the files of a commit are, from its tree and without any of them.

        Args:
            repo_id, commit_hash: the commit.
            gated: whether to ask if this account may read the files.

        Raises:
            RepoNotFound, InvalidSpec, HubUnavailable: as `resolve`.
        """
        with self._sentences(repo_id, commit_hash), self._understood(repo_id):
            url: str | None = f"{self.endpoint}/api/models/{repo_id}/tree/{commit_hash}?recursive=true"
            files: list[RepoFile] = []
            while url is not None:
                response = self._persist(lambda url=url: self._get(url))  # type: ignore[misc]
                files += [tree_file(item) for item in response.json() if item["type"] == "file"]
                url = response.links.get("next", {}).get("url")
        return RepoContent(
            digest=content_digest(files),
            weight_bytes=sum(f.size_bytes for f in wanted_files(files) if is_weight(f.path)),
            readable=not gated or self.may_read(repo_id),
        )

    def may_read(self, repo_id: str) -> bool:
        """Whether this account may read the files of a gated repository.

        Raises:
            RepoNotFound, HubUnavailable: as `resolve`.
        """
        try:
            with self._sentences(repo_id):
                self._persist(lambda: self._get(f"{self.endpoint}/api/models/{repo_id}/auth-check"))
        except RepoGated:
            return False
        return True

    def resolve(self, repo_id: str, ref: str) -> ModelRevision:
        """The commit that a branch, tag or commit hash stands for now.

        Raises:
            InvalidSpec: not a repository id, or the repository has no such ref.
            RepoNotFound: no such repository, or this account may not see it.
            HubUnavailable: no usable answer.
        """
        require_repo_id(repo_id)
        with self._sentences(repo_id, ref), self._understood(repo_id):
            info = self._persist(
                lambda: self._api.model_info(repo_id, revision=ref, expand=["sha"], timeout=self.timeout_s)
            )
            return ModelRevision(repo_id=repo_id, commit_hash=info.sha or "")

    def ref_kind(self, repo_id: str, ref: str) -> Literal["branch", "tag"]:
        """Whether a name that `resolve` found is a tag or a branch.

        Raises:
            RepoNotFound, HubUnavailable: as `resolve`.
        """
        with self._sentences(repo_id, ref), self._understood(repo_id):
            refs = self._persist(lambda: self._get(f"{self.endpoint}/api/models/{repo_id}/refs")).json()
            return "tag" if any(ref in (t["name"], t["ref"]) for t in refs["tags"]) else "branch"

    def listing(self, revision: ModelRevision) -> RepoListing:
        """A revision as an organisation's listing would show it.

        Raises:
            RepoNotFound, InvalidSpec, HubUnavailable: as `resolve`.
        """
        url = f"{self.endpoint}/api/models/{revision.repo_id}/revision/{revision.commit_hash}"
        with self._sentences(revision.repo_id, revision.commit_hash), self._understood(revision.repo_id):
            return listing_of(self._persist(lambda: self._get(url, {"expand": LISTED})).json())

    def release(self, revision: ModelRevision) -> Release:
        """Everything that can be known about a revision from its listing and its small files.

        Raises:
            RepoGated: its files may not be read with this token.
            RepoNotFound, InvalidSpec, HubUnavailable: as `resolve`.
            IntegrityError: a small file is not what the listing says.
        """
        with self._sentences(revision.repo_id, revision.commit_hash), self._understood(revision.repo_id):
            info = self._persist(
                lambda: self._api.model_info(
                    revision.repo_id, revision=revision.commit_hash, files_metadata=True, timeout=self.timeout_s
                )
            )
            files = tuple(repo_file(s) for s in info.siblings or [])
            # what is no JSON is told by `documents`; here it states nothing
            config = ModelConfig.from_json(self._small_json(revision, files, "config.json", []))
            tokenizer_config = self._small_json(revision, files, "tokenizer_config.json", [])
        return Release(
            revision=revision,
            hub_url=self.endpoint,
            files=files,
            architectures=config.architectures,
            model_type=config.model_type,
            dtype=config.dtype,
            quantization=config.quantization,
            license=license_of(info),
            gated=gated_of(info.gated),
            has_chat_template=has_chat_template([f.path for f in files], tokenizer_config),
            remote_code=config.remote_code,
            parameters=info.safetensors.total if info.safetensors else None,
            parameters_by_dtype=dict(info.safetensors.parameters) if info.safetensors else {},
            max_context=config.max_context,
        )

    def fetch_file(
        self, revision: ModelRevision, file: RepoFile, target: Path, on_bytes: OnBytes | None = None
    ) -> None:
        """Make `target` hold all bytes of one file, going on where it ends. The content is not verified here.

        Args:
            revision: the commit the file belongs to.
            file: one of the release's files.
            target: where to write; what it already holds is taken for the file's beginning.
            on_bytes: called with the size of `target` and the piece it grew by, empty when it did not; may raise to
                stop. A size below the one before says that everything begins anew.

        Raises:
            RepoGated, RepoNotFound, HubUnavailable: as `release`.
            OSError: the disk refused.
        """
        report: OnBytes = on_bytes or (lambda _size, _piece: None)
        with self._sentences(revision.repo_id, revision.commit_hash):
            if file.size_bytes > self.max_http_bytes:
                self._persist(lambda: self._fetch_chunked(revision, file, target))
            else:
                self._persist(
                    lambda: self._fetch_from(revision, file, target, report),
                    position=lambda: target.stat().st_size if target.exists() else 0,
                )
            report(target.stat().st_size, b"")

    def _fetch_from(self, revision: ModelRevision, file: RepoFile, target: Path, report: OnBytes) -> None:
        """Ask for the bytes that `target` lacks, and append them."""
        with target.open("ab", buffering=0) as out:
            position = out.tell()
            if position >= file.size_bytes:
                return
            headers = {**self._headers(), "Accept-Encoding": "identity"}
            if position:
                headers["Range"] = f"bytes={position}-"
            url = self._file_url(revision, file.path)
            with get_session().stream("GET", url, headers=headers, timeout=self.timeout_s) as response:
                hf_raise_for_status(response)
                if position and response.status_code != 206:
                    out.truncate(0)  # the server does not know ranges and sends the whole file
                    position = 0
                report(position, b"")
                for piece in response.iter_bytes(PIECE_BYTES):
                    position += _write_all(out, piece)
                    report(position, piece)
                    if position > file.size_bytes:
                        return  # more than the listing says: the digest will not hold, so the rest is not read
            if position < file.size_bytes:
                raise HTTP.RemoteProtocolError(f"{file.path} ended at byte {position} of {file.size_bytes}")

    def _fetch_chunked(self, revision: ModelRevision, file: RepoFile, target: Path) -> None:
        """Leave one very large file to the official client, which has a protocol of its own for it."""
        folder = target.with_name(f"{target.name}.chunked")
        fetched = hf_hub_download(
            revision.repo_id,
            file.path,
            revision=revision.commit_hash,
            endpoint=self.endpoint,
            token=self._token,
            local_dir=folder,
        )
        Path(fetched).replace(target)

    def documents(self, release: Release) -> Documents:
        """The small files of a release that say how it is loaded, talked to and stopped.

        Raises:
            RepoGated, RepoNotFound, HubUnavailable, IntegrityError: as `release`.
        """
        revision, files = release.revision, release.files
        unreadable: list[str] = []

        def parsed(path: str) -> object:
            return self._small_json(revision, files, path, unreadable)

        with self._sentences(revision.repo_id, revision.commit_hash):
            found = {name: parsed(f"{name}.json") for name in ("config", "tokenizer_config", "generation_config")}
            templates: dict[str, str] = {}
            if (content := self._small_file(revision, files, "chat_template.jinja")) is not None:
                templates["chat_template.jinja"] = content.decode(errors="replace")
            processor = parsed("chat_template.json")  # of multimodal models before 2025
            if isinstance(processor, dict) and isinstance(processor.get("chat_template"), str):
                templates.setdefault("chat_template.jinja", processor["chat_template"])
            tokenizer_config = found["tokenizer_config"]
            if not (isinstance(tokenizer_config, dict) and tokenizer_config.get("added_tokens_decoder")):
                found["tokenizer"] = parsed("tokenizer.json")  # of some megabytes; special tokens are only there then
        return Documents(**found, templates=templates, unreadable=tuple(unreadable))

    def _small_json(
        self, revision: ModelRevision, files: tuple[RepoFile, ...], path: str, unreadable: list[str]
    ) -> object:
        """A small file, parsed; None when the revision has none, or it is no JSON and its path goes to `unreadable`."""
        content = self._small_file(revision, files, path)
        try:
            return None if content is None else json.loads(content)
        except ValueError:
            unreadable.append(path)
            return None

    def _small_file(self, revision: ModelRevision, files: tuple[RepoFile, ...], path: str) -> bytes | None:
        """The verified content of a small file; None when the revision has none, or it is too large to be one."""
        file = next((f for f in files if f.path == path), None)
        if file is None or file.size_bytes > MAX_SMALL_FILE_BYTES:
            return None
        for _ in range(2):
            content: bytes = self._persist(lambda: self._get(self._file_url(revision, path)).content)
            problem = mismatch(file, len(content), sha256_of(content), git_blob_sha1(content))
            if problem is None:
                return content
        raise IntegrityError(
            f"{path} of {revision} is not what {self.endpoint} lists, twice ({problem}): try again later, or ask its "
            "publisher to upload it again."
        )

    def _pages(self, org: str, deadline: float | None = None) -> Iterator[dict[str, Any]]:
        """The items of all pages of a listing. Each page is asked for until it is there, or the whole listing fails."""
        url: str | None = f"{self.endpoint}/api/models"
        params: dict[str, Any] | None = {"author": org, "expand": LISTED, "limit": 1000}
        while url is not None:
            if deadline is not None and time.monotonic() > deadline:
                raise HubUnavailable(
                    f"{self.endpoint} did not list the models of {org} in the time there was: nothing was changed; it "
                    "is tried again."
                )
            response = self._persist(lambda url=url, params=params: self._get(url, params))  # type: ignore[misc]
            yield from response.json()
            url, params = response.links.get("next", {}).get("url"), None  # the link carries the query

    def _get(self, url: str, params: dict[str, Any] | None = None) -> Any:
        headers = self._headers() if url.startswith(f"{self.endpoint}/") else {}  # the token goes to no other address
        response = get_session().get(url, params=params, headers=headers, timeout=self.timeout_s)
        hf_raise_for_status(response)
        return response

    def _headers(self) -> dict[str, str]:
        return build_hf_headers(token=self._token, library_name="modelops-dagster")

    def _file_url(self, revision: ModelRevision, path: str) -> str:
        return hf_hub_url(revision.repo_id, path, revision=revision.commit_hash, endpoint=self.endpoint)

    def _persist(self, call: Callable[[], T], position: Callable[[], int] = lambda: 0) -> T:
        """Make a call until it succeeds, fails for good, or has failed `max_tries` times without getting further."""
        failures = 0
        while True:
            before = position()
            try:
                return call()
            except (HfHubHTTPError, HTTP.RequestError) as error:
                failures = 1 if position() > before else failures + 1
                pause = pause_s(error, failures)
                if pause is None or pause > self.max_wait_s or failures >= self.max_tries:
                    raise
                time.sleep(pause)

    def _sentences(self, what: str, ref: str = "main") -> AbstractContextManager[None]:
        return sentences(self.endpoint, bool(self._token), what, ref)

    def _understood(self, what: str) -> AbstractContextManager[None]:
        return understood(self.endpoint, what)


def _write_all(out: Any, piece: bytes) -> int:
    """Write every byte; an unbuffered file may take only some of them. Returns their number."""
    view = memoryview(piece)
    while view:
        view = view[out.write(view) :]
    return len(piece)
