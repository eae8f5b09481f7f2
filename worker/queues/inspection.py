"""What the front may ask about the queues that this worker owns, and do with them; a part of `worker.inspection`, held
to the same bounds.

| what | arguments | answer |
|---|---|---|
| `queues` | `offset`, `limit`, `text` | `queues`, `next` (`offset` for more, or None) |
| `queue` | `name`, `offset` and `limit` of its consumers | one queue, `consumer_list`, its limits |
| `consumers` | `numbers` | `sessions`, by number: whose consumers of queues, on whatever worker, these are |
| `deepest` | | `queues`: [name, messages, unsettled, consumers] of those that hold the most |
| `requeue` | `name`, `to` (empty: where each came from), `limit` | `moved`, `left`, `why` (see `requeueing`) |
| `purge` | `name` | the same |

The last two answer when what they did is on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

from worker.queues.requeueing import Reply

if TYPE_CHECKING:
    from worker.queues.owned import OwnedQueue
    from worker.queues.service import Queues

__all__ = ["QueueInspector"]


class QueueInspector:
    """One answer looks at no more than `scan` queues and gives no more than `piece`."""

    def __init__(self, queues: Callable[[], Queues], scan: int, piece: int) -> None:
        self._queues = queues
        self._scan = scan
        self._piece = piece
        self.questions: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
            "queues": self._list,
            "queue": self._queue,
            "consumers": self._consumers,
            "deepest": self._deepest,
        }
        self.orders: dict[str, Callable[[dict[str, Any], Reply], None]] = {
            "requeue": self._requeue,
            "purge": self._purge,
        }

    def _list(self, arguments: dict[str, Any]) -> dict[str, Any]:
        # By position: where queues come and go meanwhile, a listing may miss some.
        offset, text = arguments["offset"], arguments["text"].lower()
        limit = min(arguments["limit"], self._piece)
        registry = self._queues().owner.registry
        found: list[dict[str, Any]] = []
        for owned in islice(registry, offset, offset + self._scan):
            offset += 1
            if not text or text in owned.name.decode(errors="replace").lower():
                found.append(_describe(owned))
                if len(found) >= limit:
                    break
        return {"queues": found, "next": offset if offset < len(registry) else None}

    def _queue(self, arguments: dict[str, Any]) -> dict[str, Any] | None:
        owned = self._queues().owner.registry.get(arguments["name"].encode())
        if owned is None:
            return None
        offset = arguments["offset"]
        consumers = owned.queue.consumers.values()
        policy = owned.policy
        return {
            **_describe(owned),
            "max_messages": policy.max_messages,
            "max_bytes": policy.max_bytes,
            "when_full": policy.when_full,
            "dead_letter": policy.dead_letter_for(owned.title) or "",
            "consumer_list": [
                {
                    "worker": each.slot,
                    "number": each.id,
                    "prefetch": each.prefetch,
                    "unsettled": len(each.unsettled),
                    "exclusive": each.exclusive,
                    "has_selector": each.selector is not None,
                }
                for each in islice(consumers, offset, offset + min(arguments["limit"], self._piece))
            ],
        }

    def _consumers(self, arguments: dict[str, Any]) -> dict[str, Any]:
        queues = self._queues()
        numbers = arguments["numbers"][: self._piece]
        found = {number: queues.clients.subscription(number) for number in numbers}
        return {"sessions": [[number, each.connection.session] for number, each in found.items() if each is not None]}

    def _deepest(self, arguments: dict[str, Any]) -> dict[str, Any]:
        deepest = self._queues().gauges.deepest()
        return {"queues": [[each.name, each.messages, each.unsettled, each.consumers] for each in deepest]}

    def _requeue(self, arguments: dict[str, Any], reply: Reply) -> None:
        to = arguments["to"].encode() or None
        self._queues().requeueing.requeue(arguments["name"].encode(), to, arguments["limit"], reply)

    def _purge(self, arguments: dict[str, Any], reply: Reply) -> None:
        self._queues().requeueing.purge(arguments["name"].encode(), reply)


def _describe(owned: OwnedQueue) -> dict[str, Any]:
    queue, feed = owned.queue, owned.feed
    return {
        "name": owned.name.decode(errors="replace"),
        "topics": "" if feed is None else feed.pattern.decode(errors="replace"),
        "messages": queue.messages,
        "ready": queue.ready,
        "unsettled": queue.unsettled,
        "resting": queue.resting,
        "spilled": queue.spilled,
        "bytes": queue.bytes,
        "consumers": len(queue.consumers),
        "blocked": owned.blocked,
    }
