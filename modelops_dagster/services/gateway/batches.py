"""`/v1/files` and `/v1/batches`, as the OpenAI client calls them. A key sees its own files and batches only."""

import asyncio
from collections.abc import Mapping
from typing import Any

from modelops_dagster.clients.batches import BatchStore, StoredFile
from modelops_dagster.domain.batch import batch_document
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gateway import KeyRecord
from modelops_dagster.services.gateway.admission import Refusal
from modelops_dagster.services.gateway.answers import Send, answer, refuse
from modelops_dagster.services.gateway.identity import Receive, Scope, header

MAX_FILE_BYTES = 200 * 2**20
NOT_FOUND = Refusal(404, "not_found", "There is no such file or batch.")


class BatchApi:
    """Answers for one worker; the documents are the same in all of them."""

    def __init__(self, store: BatchStore) -> None:
        self._store = store

    async def __call__(self, key: KeyRecord, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; `path` is without /v1."""
        parts = path.strip("/").split("/")
        try:
            handled = await self._answer(key.key_id, scope["method"], parts, scope, receive, send)
        except InvalidSpec as error:
            await refuse(send, Refusal(400, error.code, error.sentence))
            return
        if not handled:
            await refuse(send, NOT_FOUND)

    async def _answer(
        self, key_id: str, method: str, parts: list[str], scope: Scope, receive: Receive, send: Send
    ) -> bool:
        match (method, *parts):
            case ("POST", "files"):
                await answer(send, 200, await self._upload(key_id, scope, receive))
            case ("GET", "files"):
                found = [self._shown(record) for record in self._store.files(key_id)]
                await answer(send, 200, {"object": "list", "data": found, "has_more": False})
            case ("GET" | "DELETE", "files", file_id, *rest):
                record = self._store.file(key_id, file_id)
                return record is not None and await self._file(record, method, rest, send)
            case ("POST", "batches"):
                document = await _json(scope, receive)
                await answer(send, 200, batch_document(await asyncio.to_thread(self._submit, key_id, document)))
            case ("GET", "batches"):
                batches = [batch_document(b) for b in self._store.list(key_id)]
                await answer(send, 200, {"object": "list", "data": batches, "has_more": False})
            case ("GET", "batches", batch_id):
                batch = self._store.get(batch_id, key_id)
                if batch is None:
                    return False
                await answer(send, 200, batch_document(batch))
            case ("POST", "batches", batch_id, "cancel"):
                if self._store.get(batch_id, key_id) is None:
                    return False
                await answer(send, 200, batch_document(self._store.cancel(batch_id)))
            case _:
                return False
        return True

    async def _file(self, record: StoredFile, method: str, rest: list[str], send: Send) -> bool:
        path = self._store.file_path(record.file_id)
        if method == "DELETE" and not rest:
            self._store.delete_file(record.file_id)
            await answer(send, 200, {"id": record.file_id, "object": "file", "deleted": True})
        elif rest == ["content"]:
            content = await asyncio.to_thread(path.read_bytes) if path.is_file() else b""
            headers = [(b"content-type", b"application/jsonl"), (b"content-length", str(len(content)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": content})
        elif not rest:
            await answer(send, 200, self._shown(record))
        else:
            return False
        return True

    async def _upload(self, key_id: str, scope: Scope, receive: Receive) -> Mapping[str, object]:
        from starlette.datastructures import UploadFile
        from starlette.requests import Request

        size = header(scope, b"content-length")
        if not size.isdecimal() or int(size) > MAX_FILE_BYTES:
            raise InvalidSpec(
                f"the upload must say its length, and not be above {MAX_FILE_BYTES // 2**20} MiB; split it."
            )
        async with Request(scope, receive).form(max_files=1, max_fields=8) as form:
            upload, purpose = form.get("file"), form.get("purpose")
            if not isinstance(upload, UploadFile) or purpose != "batch":
                raise InvalidSpec("send a form with the fields 'file' and 'purpose'; the purpose is 'batch'.")
            content = await upload.read()
            name = upload.filename or "input.jsonl"
        record = await asyncio.to_thread(self._store.add_file, key_id, name, content)
        return self._shown(record)

    def _submit(self, key_id: str, document: Mapping[str, Any]) -> Any:
        endpoint, metadata = document.get("endpoint"), document.get("metadata") or {}
        return self._store.submit(
            key_id,
            str(document.get("input_file_id")),
            endpoint=str(endpoint),
            metadata={str(k): str(v) for k, v in metadata.items()},
        )

    def _shown(self, record: StoredFile) -> dict[str, object]:
        path = self._store.file_path(record.file_id)
        return {
            "id": record.file_id,
            "object": "file",
            "bytes": path.stat().st_size if path.is_file() else 0,
            "created_at": int(record.created_at.timestamp()),
            "filename": record.filename,
            "purpose": record.purpose,
            "status": "processed",
        }


async def _json(scope: Scope, receive: Receive) -> Mapping[str, Any]:
    from starlette.requests import Request

    try:
        document = await Request(scope, receive).json()
    except ValueError as error:
        raise InvalidSpec("the body is not JSON; send an object.") from error
    if not isinstance(document, Mapping) or not isinstance(document.get("metadata"), Mapping | None):
        raise InvalidSpec("the body must be an object, and its metadata too.")
    return document
