"""A load generator that costs little itself: raw HTTP/1.1 over asyncio, no client library. Prints one line of JSON.

python -m bench.load URL --key KEY --streams 64 --tokens 250      open SSE streams, all at once
python -m bench.load URL --key KEY --requests 2000 --concurrency 64   1-token requests over kept connections
"""

import argparse
import asyncio
import json
import statistics
import time
from urllib.parse import urlsplit

import uvloop

EVENT_END = b"\n\n"
DONE = b"data: [DONE]\n\n"


class StreamClient(asyncio.Protocol):
    """One SSE stream: counts events and notes when the first and the last came."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.num_events = 0
        self.first_s = 0.0
        self.last_s = 0.0
        self.is_complete = False
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.begin_s = time.perf_counter()
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        num_events = data.count(EVENT_END)
        if num_events and b"data:" in data:
            self.last_s = time.perf_counter()
            self.first_s = self.first_s or self.last_s
            self.num_events += num_events
        self._tail = (self._tail + data)[-64:]
        if DONE in self._tail:
            self.is_complete = True
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


class RequestClient(asyncio.Protocol):
    """One kept connection: sends the next request when the last one is answered, until `remaining` is empty."""

    def __init__(self, request: bytes, remaining: list[None]) -> None:
        self.request = request
        self.remaining = remaining
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.num_ok = 0
        self.latencies_s: list[float] = []
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) >= length:
            self.latencies_s.append(time.perf_counter() - self.sent_s)
            self.num_ok += head.startswith(b"HTTP/1.1 200")
            self._buffer = b""
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _send(self) -> None:
        if not self.remaining:
            self.transport.close()
            return
        self.remaining.pop()
        self.sent_s = time.perf_counter()
        self.transport.write(self.request)  # type: ignore[attr-defined]


def make_request(url: str, key: str, model: str, num_tokens: int, *, stream: bool) -> bytes:
    """The bytes of one chat completion."""
    parts = urlsplit(url)
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": "Count, please."}],
            "max_tokens": num_tokens,
            "stream": stream,
        }
    ).encode()
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def run_streams(url: str, request: bytes, num_streams: int) -> dict[str, float]:
    """All streams opened at once and read to their ends."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    connections = [
        loop.create_connection(lambda: StreamClient(request), parts.hostname, parts.port) for _ in range(num_streams)
    ]
    clients = [client for _, client in await asyncio.gather(*connections)]
    await asyncio.gather(*(client.done for client in clients))
    begin_s = min(client.begin_s for client in clients)
    end_s = max(client.last_s for client in clients)
    ttft_s = sorted(client.first_s - client.begin_s for client in clients)
    return {
        "complete": sum(client.is_complete for client in clients),
        "chunks": sum(client.num_events for client in clients),
        "seconds": end_s - begin_s,
        "ttft_p50_ms": 1000 * statistics.median(ttft_s),
        "ttft_p99_ms": 1000 * ttft_s[int(0.99 * (len(ttft_s) - 1))],
    }


async def run_requests(url: str, request: bytes, num_requests: int, concurrency: int) -> dict[str, float]:
    """So many requests over so many connections."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    remaining: list[None] = [None] * num_requests
    begin_s = time.perf_counter()
    connections = [
        loop.create_connection(lambda: RequestClient(request, remaining), parts.hostname, parts.port)
        for _ in range(concurrency)
    ]
    clients = [client for _, client in await asyncio.gather(*connections)]
    await asyncio.gather(*(client.done for client in clients))
    seconds = time.perf_counter() - begin_s
    latencies_s = sorted(latency for client in clients for latency in client.latencies_s)
    return {
        "ok": sum(client.num_ok for client in clients),
        "seconds": seconds,
        "per_second": num_requests / seconds,
        "p50_ms": 1000 * statistics.median(latencies_s),
        "p99_ms": 1000 * latencies_s[int(0.99 * (len(latencies_s) - 1))],
    }


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the chat completions endpoint")
    parser.add_argument("--key", required=True)
    parser.add_argument("--model", default="scripted")
    parser.add_argument("--streams", type=int)
    parser.add_argument("--tokens", type=int, default=250)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    if options.streams:
        request = make_request(options.url, options.key, options.model, options.tokens, stream=True)
        result = uvloop.run(run_streams(options.url, request, options.streams))
    else:
        request = make_request(options.url, options.key, options.model, 1, stream=False)
        result = uvloop.run(run_requests(options.url, request, options.requests, options.concurrency))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
