"""Messages between the evaluator and the process that holds the submission.

Lines of JSON with a running number and a keyed hash. The submission runs in the same process as one end: whatever it
finds to write to, it lacks the key, and a line without the right hash or out of order is proof of an attempt.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import select
import time
from typing import Any

from nvfp4.errors import NVFP4Error

Message = dict[str, Any]

_CHUNK = 1 << 16


class ChannelError(NVFP4Error):
    """Something that is no message of ours arrived."""


class Closed(NVFP4Error):
    """The other end is gone."""


class Timeout(NVFP4Error):
    """No message came in time."""


def _code(key: bytes, number: int, body: bytes) -> str:
    return hmac.new(key, number.to_bytes(8, "big") + body, hashlib.sha256).hexdigest()


class Sender:
    """Writes messages to a file descriptor."""

    def __init__(self, descriptor: int, key: bytes) -> None:
        self._descriptor, self._key, self._number = descriptor, key, 0

    def send(self, message: Message) -> None:
        """Send one message.

        Raises:
            Closed: Nobody reads any more.
        """
        body = json.dumps(message, separators=(",", ":"))
        data = f"{_code(self._key, self._number, body.encode())} {body}\n".encode()
        self._number += 1
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise Closed(f"channel: {error.strerror}") from None


class Receiver:
    """Reads messages from a file descriptor."""

    def __init__(self, descriptor: int, key: bytes) -> None:
        self._descriptor, self._key, self._number = descriptor, key, 0
        self._buffer = b""

    def receive(self, timeout: float | None = None) -> Message:
        """The next message.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            Timeout: Nothing came in time.
            Closed: The other end is gone.
            ChannelError: What came is no message of the other end's.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = None if end is None else max(0.0, end - time.monotonic())
            ready, _, _ = select.select([self._descriptor], [], [], left)
            if not ready:
                raise Timeout(f"channel: nothing for {timeout:.0f} s")
            data = os.read(self._descriptor, _CHUNK)
            if not data:
                raise Closed("channel: closed")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        code, _, body = line.partition(b" ")
        if not hmac.compare_digest(code, _code(self._key, self._number, body).encode()):
            raise ChannelError(f"channel: a line that the evaluator did not write: {line[:80]!r}")
        self._number += 1
        message = json.loads(body)
        assert isinstance(message, dict)
        return message
