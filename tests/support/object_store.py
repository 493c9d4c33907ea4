"""An object store on loopback: as much of S3 as reading and listing ask for, with faults on demand."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from xml.sax.saxutils import escape

from aiohttp import web

KEY_ID = "TESTKEYID"
VARIABLES = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": "test-secret-of-the-store",
    "AWS_REGION": "us-east-1",
}
_PAGE = 3  # keys a page of a listing holds, so that every longer one has several


class Store:
    """Buckets of objects. Its faults are plain attributes, set at any time."""

    def __init__(self, **buckets: dict[str, bytes]) -> None:
        self.buckets = buckets
        self.requests: list[tuple[str, str, str]] = []  # method, key, range
        self.cuts = 0  # number of bodies that end too early
        self.failures = 0  # number of requests that get a 503
        self.stalls_s = 0.0
        self.ignores_if_match = False
        self.changes: dict[str, bytes] = {}  # what an object becomes once a range of it was read

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer any request."""
        bucket, key = request.match_info["bucket"], request.match_info.get("key", "")
        self.requests.append((request.method, key, request.headers.get("Range", "")))
        if self.stalls_s:
            await asyncio.sleep(self.stalls_s)
        if self.failures:
            self.failures -= 1
            return _error(503, "SlowDown")
        if f"Credential={KEY_ID}/" not in request.headers.get("Authorization", ""):
            return _error(403, "InvalidAccessKeyId")
        if bucket not in self.buckets:
            return _error(404, "NoSuchBucket")
        if not key:
            return self._listing(self.buckets[bucket], request)
        if key not in self.buckets[bucket]:
            return _error(404, "NoSuchKey")
        return await self._object(self.buckets[bucket], key, request)

    async def _object(
        self, objects: dict[str, bytes], key: str, request: web.Request
    ) -> web.StreamResponse:
        content = objects[key]
        tag = f'"{hashlib.md5(content).hexdigest()}"'  # noqa: S324 - as S3 does
        if request.headers.get("If-Match", tag) != tag and not self.ignores_if_match:
            return _error(412, "PreconditionFailed")
        first, last = 0, len(content) - 1
        asked = request.headers.get("Range")
        if asked:
            start, end = asked.removeprefix("bytes=").split("-")
            first, last = int(start), min(int(end), last)
        body = content[first : last + 1]
        response = web.StreamResponse(status=206 if asked else 200)
        response.headers["ETag"] = tag
        response.headers["Last-Modified"] = "Sat, 21 Nov 2026 02:00:00 GMT"
        response.content_length = len(body)
        if asked:
            response.headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        await response.prepare(request)
        if request.method == "GET" and self.cuts:
            self.cuts -= 1
            await response.write(body[: len(body) // 2])
            if request.transport is not None:
                request.transport.close()
            return response
        if request.method == "GET":
            await response.write(body)
            if key in self.changes:
                objects[key] = self.changes.pop(key)
        return response

    def _listing(self, objects: dict[str, bytes], request: web.Request) -> web.Response:
        """Answer ListObjectsV2."""
        prefix = request.query.get("prefix", "")
        delimiter = request.query.get("delimiter", "")
        names: dict[str, bool] = {}  # whether it is a folder
        for key in sorted(objects):
            if key.startswith(prefix):
                head, found, _ = key[len(prefix) :].partition(delimiter or "\0")
                names[prefix + head + found if found else key] = bool(found)
        after = request.query.get("continuation-token", "")
        left = [name for name in names if name > after]
        shown = left[:_PAGE]
        lines = [
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            if names[name]
            else f"<Contents><Key>{escape(name)}</Key><Size>{len(objects[name])}</Size>"
            '<LastModified>2026-11-21T02:00:00.000Z</LastModified><ETag>"0"</ETag></Contents>'
            for name in shown
        ]
        more = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>"
        is_cut = len(left) > len(shown)
        return web.Response(
            content_type="application/xml",
            text='<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>{more if is_cut else ''}{''.join(lines)}</ListBucketResult>",
        )


def _error(status: int, code: str) -> web.Response:
    text = f"<Error><Code>{code}</Code><Message>said by the store</Message></Error>"
    return web.Response(status=status, content_type="application/xml", text=text)


@asynccontextmanager
async def served(store: Store) -> AsyncIterator[str]:
    """Serve it; yields its endpoint."""
    app = web.Application()
    app.router.add_route("*", "/{bucket}", store.answer)
    app.router.add_route("*", "/{bucket}/{key:.*}", store.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
