"""An HTTP client that costs little, so that a server beside it on the same machine is what is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from app.errors import Retry

CONNECT_LIMIT_S = 10.0


class Connection(asyncio.Protocol):
    """One keep-alive connection: a request at a time, each answer's status and moment kept."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._buffer = b""
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    @property
    def closed(self) -> bool:
        """Whether it is gone; a server closes what is idle."""
        return self.transport.is_closing()

    async def ask(self, request: bytes) -> int:
        """Send a whole request and return the status of its answer.

        Raises:
            ConnectionResetError: when the connection is closed.
        """
        if self.closed:
            raise ConnectionResetError("closed by the server")
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """Complete the answer when its head and its body are here."""
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or self._answer is None:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        if len(body) >= length:
            self._buffer = body[length:]
            self._answer.set_result(int(head.split(b" ", 2)[1]))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request under way."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("closed by the server"))


async def connect(port: int) -> Connection:
    """Connect to a server of this machine, waiting for it to listen.

    Raises:
        Retry: when it does not listen in time.
    """
    end = time.perf_counter() + CONNECT_LIMIT_S
    while True:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
        except ConnectionRefusedError:
            if time.perf_counter() > end:
                raise Retry(f"nobody listens on port {port}") from None
            await asyncio.sleep(0.05)
            continue
        return connection


async def ask_all(
    port: int, requests: Iterator[bytes], connections: int, progress: Callable[[int], None]
) -> list[float]:
    """Send every request over so many connections; returns each one's seconds to its answer.

    Raises:
        Retry: when an answer is not 200.
    """
    seconds: list[float] = []

    async def work() -> None:
        connection = await connect(port)
        try:
            for request in requests:
                began = time.perf_counter()
                status = await connection.ask(request)
                if status != 200:
                    raise Retry(f"the server on port {port} answered {status}")
                seconds.append(time.perf_counter() - began)
                progress(1)
        finally:
            connection.transport.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(work())
    return seconds


def post(path: str, headers: dict[str, str], body: bytes) -> bytes:
    """The bytes of a POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
