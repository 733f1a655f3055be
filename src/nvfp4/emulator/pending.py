"""Asynchronous work of a cluster that has been issued and has not taken effect."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["NEVER", "AsyncOp", "Pending"]

NEVER = 1 << 62


@dataclass(eq=False, slots=True)
class AsyncOp:
    """Work in flight. ``run`` makes it take effect; ``due`` is the step at which it does so unless something forces it
    earlier. ``queue``: operations of one name take effect in order; without one, at any time."""

    run: Callable[[], None]
    due: int
    what: str
    queue: str = ""
    line: int = 0


class Pending:
    """The operations in flight: a set without order, and queues by name."""

    def __init__(self) -> None:
        self._free: dict[AsyncOp, None] = {}
        self._queues: dict[str, deque[AsyncOp]] = {}
        self.due = NEVER  # no later than the first that is due

    def __iter__(self) -> Iterator[AsyncOp]:
        yield from self._free
        for queue in self._queues.values():
            yield from queue

    def __bool__(self) -> bool:
        return bool(self._free or self._queues)

    def __contains__(self, op: AsyncOp) -> bool:
        return op in self._queues.get(op.queue, ()) if op.queue else op in self._free

    def add(self, op: AsyncOp) -> None:
        """Put an operation in flight."""
        if op.queue:
            queue = self._queues.get(op.queue)
            if queue is None:
                self._queues[op.queue] = deque((op,))
            else:
                queue.append(op)
        else:
            self._free[op] = None
        if op.due < self.due:
            self.due = op.due

    def remove(self, op: AsyncOp) -> None:
        """An operation takes effect."""
        if not op.queue:
            del self._free[op]
            return
        queue = self._queues[op.queue]
        if queue[0] is op:
            queue.popleft()
        else:
            queue.remove(op)
        if not queue:
            del self._queues[op.queue]

    def ready(self) -> list[AsyncOp]:
        """What may take effect next: anything, except that each queue does so in order."""
        return [*self._free, *(queue[0] for queue in self._queues.values())]

    def queued(self, name: str) -> tuple[AsyncOp, ...]:
        """The operations of one queue, in order."""
        return tuple(self._queues.get(name, ()))

    def postpone(self, now: int, delay: int) -> None:
        """The head of a queue holds back those behind it: whatever is due by ``now`` is looked at again later."""
        due = NEVER
        for op in self:
            if op.due <= now:
                op.due = now + delay
            if op.due < due:
                due = op.due
        self.due = due
