"""One file, or a part of it, to one client: a piece at a time, so that its size does not matter."""

import asyncio
import re
from pathlib import Path
from typing import Any

from aiohttp import web

from modelops_dagster.services.hub_server.faults import Faults
from modelops_dagster.services.hub_server.refusals import Refusal
from modelops_dagster.services.hub_server.storage import Commit, StoredFile

PIECE_BYTES = 1 << 20


async def send_file(
    request: web.Request, commit: Commit, file: StoredFile, content: Path, faults: Faults
) -> web.StreamResponse:
    """Answer a request for a file, in whole or for one range, or say that the client's copy is still good.

    Args:
        request: GET or HEAD.
        commit: where the file was asked for.
        file: what was asked for.
        content: its bytes.
        faults: what goes wrong on purpose.
    """
    etag = f'"{file.sha256 if file.is_lfs else file.git_sha1}"'
    headers = {
        "X-Repo-Commit": commit.commit_hash,
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    if file.is_lfs:
        headers |= {"X-Linked-ETag": etag, "X-Linked-Size": str(file.size_bytes)}
    if _matches(request.headers.get("If-None-Match", ""), etag):
        return web.Response(status=304, headers=headers)
    asked = "" if faults.ignore_ranges else request.headers.get("Range", "")
    if "If-Range" in request.headers and request.headers["If-Range"].strip() != etag:
        asked = ""  # the client has the beginning of another content
    span = _span(asked, file.size_bytes)
    status, start, end = 200, 0, file.size_bytes
    if span is not None:
        status, (start, end) = 206, span
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = end - start
    await response.prepare(request)
    if request.method != "HEAD":
        with content.open("rb") as source:
            source.seek(start)
            await _send(request, response, file, source, (start, end), faults if faults.applies(request.path) else None)
    return response


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    file: StoredFile,
    source: Any,
    span: tuple[int, int],
    faulty: Faults | None,
) -> None:
    """Write the bytes from start to end, with whatever faults are set."""
    faults = faulty or Faults()
    at, end = span
    cut_at = at + faults.cut_after_bytes if faults.cut_after_bytes is not None and faults.take("cuts") else None
    corrupt_at = file.size_bytes // 2 if faults.take("corrupt") else None
    piece_bytes = PIECE_BYTES if faults.bytes_per_s is None else max(1, int(faults.bytes_per_s / 20))
    while at < end:
        wanted = min(piece_bytes, end - at, *([cut_at - at] if cut_at is not None else []))
        piece = await asyncio.to_thread(source.read, wanted)  # a slow disk holds up nobody else
        if not piece:
            if request.transport is not None:
                request.transport.abort() if faults.cut_by_reset else request.transport.close()
            return
        if corrupt_at is not None and at <= corrupt_at < at + len(piece):
            changed = bytearray(piece)
            changed[corrupt_at - at] ^= 0xFF
            piece = bytes(changed)
        await response.write(piece)
        at += len(piece)
        if faults.bytes_per_s is not None:
            await asyncio.sleep(len(piece) / faults.bytes_per_s)


def _matches(header: str, etag: str) -> bool:
    """Whether an If-None-Match header names this content; weak and strong are not told apart (RFC 9110, 13.1.2)."""
    named = [name.strip().removeprefix("W/") for name in header.split(",")]
    return header.strip() == "*" or etag in named


def _span(header: str, size_bytes: int) -> tuple[int, int] | None:
    """[start, end) of a Range header with one range; None when there is none that is understood."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size_bytes - int(last))
    end = min(size_bytes, int(last) + 1) if first and last else size_bytes
    if start >= end:
        raise Refusal(416, "", "Range not satisfiable", {"Content-Range": f"bytes */{size_bytes}"})
    return start, end
