"""One picture from a web server, in one request: what its answers mean, and how long it is waited for.

404 and 410 say that the picture is gone, 401, 403 and other refusals that it may not be read. Everything else that is
no picture (nobody answers, 5xx, too many requests, a body cut off, redirects that lead nowhere) may be otherwise
tomorrow, and is raised as what passes.
"""

from typing import Any

from clipmill.workers.store.errors import TooManyBytes

CONNECT_TIMEOUT_S, READ_TIMEOUT_S, TOTAL_TIMEOUT_S = 10, 30, 300
_CHUNK_BYTES = 1 << 18
_GONE = frozenset({404, 410})
_LATER = frozenset({408, 425, 429})  # timeout, too early, too many requests


def client_options() -> dict[str, Any]:
    """For fsspec's http file system: without them one silent host holds a unit for five minutes an attempt."""
    import aiohttp

    waits = aiohttp.ClientTimeout(total=TOTAL_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
    return {"client_kwargs": {"timeout": waits}}


async def read_web(fs: Any, url: str, max_bytes: int) -> bytes:
    """The body of a GET. Raises FileNotFoundError (gone), PermissionError (refused), ConnectionError and what aiohttp
    raises (passing), and TooManyBytes as soon as more than `max_bytes` are announced or have come."""
    import aiohttp

    session = await fs.set_session()
    try:
        async with session.get(fs.encode_url(url)) as answer:
            _check_status(url, answer.status)
            if (answer.content_length or 0) > max_bytes:
                raise TooManyBytes(f"{answer.content_length:,} bytes are more than the {max_bytes:,} allowed")
            body = bytearray()
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                body += chunk
                if len(body) > max_bytes:
                    raise TooManyBytes(f"it has more than the {max_bytes:,} bytes allowed")
            return bytes(body)
    except aiohttp.TooManyRedirects:
        raise ConnectionError(f"{url} redirects again and again") from None  # its status would be taken for the answer


def _check_status(url: str, status: int) -> None:
    if status == 200:
        return
    if status in _GONE:
        raise FileNotFoundError(url)
    if 400 <= status < 500 and status not in _LATER:
        raise PermissionError(f"the server refuses {url} ({status})")
    raise ConnectionError(f"the server answers {status}")
