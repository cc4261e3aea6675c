"""The ports of a stack: no other stack may take one while its process is started again."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from pathlib import Path
from typing import IO

from app.local_kafka import free_port

TRIES = 20
"""Of a free port that another stack claims between our look and our claim."""


class PortClaims:
    """Ports that a stack has claimed among all stacks of this user, for as long as it lives.

    A port is free for a moment whenever its process is started again. A stack that begins then would take
    it, and each would talk to processes of the other. So a claim is a lock on a file, which ends with the
    process that holds it, however that ends.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """``directory`` is where all stacks have their locks; by default one in the temporary directory."""
        self._directory = directory or Path(tempfile.gettempdir()) / f"skustream-ports-{os.getuid()}"
        self._held: list[IO[bytes]] = []

    def claim(self, wanted: int | None = None) -> int:
        """The wanted port when nobody listens on it or claims it, else a free one.

        Raises:
            OSError: when no lock can be made in the directory, or no port is free.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        if wanted is not None and _is_free(wanted) and self._lock(wanted):
            return wanted
        for _ in range(TRIES):
            port = free_port()
            if self._lock(port):
                return port
        raise OSError(f"no free port could be claimed in {self._directory}")

    def release(self) -> None:
        """Give all ports up."""
        for held in self._held:
            held.close()
        self._held.clear()

    def _lock(self, port: int) -> bool:
        held = (self._directory / str(port)).open("wb")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            return False
        self._held.append(held)
        return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
