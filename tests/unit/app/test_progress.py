"""The watchdog, in a process of its own because it ends it."""

from __future__ import annotations

import subprocess
import sys

from app.exactly_once import progress

BLOCKED = """
import asyncio, time
from app.exactly_once import progress

progress.BEAT_S = 0.05

async def main():
    asyncio.create_task(progress.Watchdog().run())
    await asyncio.sleep({free_s})
    time.sleep({blocked_s})

asyncio.run(main())
"""


def run(free_s: float, blocked_s: float) -> subprocess.CompletedProcess[str]:
    code = BLOCKED.format(free_s=free_s, blocked_s=blocked_s)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_blocked_event_loop_ends_the_process_with_its_stacks() -> None:
    ended = run(free_s=0.2, blocked_s=50)
    assert ended.returncode == progress.BLOCKED_STATUS
    assert "the event loop did not run" in ended.stderr
    assert "time.sleep(50" in ended.stderr or "in main" in ended.stderr


def test_a_free_event_loop_does_not() -> None:
    assert run(free_s=0.05 * progress.MISSED_BEATS * 2, blocked_s=0).returncode == 0
