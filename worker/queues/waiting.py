"""The messages of a queue that wait in memory, and who of its consumers may have which of them.

Where nobody has a selector and no message a group, all wait in one lane, `main`. Otherwise messages move on from there
to side lanes: with selectors, each message is looked at once and waits with those that the same selectors take; what
belongs to a group waits apart when its consumer has no credit. So a message that cannot go now costs nothing until it
can.

When the window is full of messages whose consumers have no credit, or that nobody wants, `make_room` drops the last of
them from memory, so that others get to what is behind them; `refill` brings them back from pages. The order of a lane
is kept by its cut: from there on nothing enters it but by `refill`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

from common.selector import Selector
from worker.queues.consumer import Consumer
from worker.queues.groups import Groups
from worker.queues.lane import Lane, SideLane, headers_of, key_of, made_persistent, merge, take_least, total_size
from worker.queues.message import Message
from worker.queues.paging import Paging
from worker.queues.turns import Turns

__all__ = ["Waiting"]

_Name = tuple[tuple[Selector | None, ...] | None, Consumer | None]
_Horizons = dict[Selector | Consumer | None, int]


class Waiting:
    """`count` messages of `size` bytes. `returned` are those among them that were delivered and came back, with their
    sizes by key: how often, the disk may not know, so they stay in memory; `avoided` says who refused which of them."""

    def __init__(self, turns: Turns, paging: Paging, max_groups: int) -> None:
        self.main: Lane = Lane()
        self.count = 0
        self.size = 0
        self.returned: dict[int, int] = {}
        self._returned_size = 0
        self.avoided: dict[int, Consumer] = {}
        self.grouped = False
        """Whether messages of groups may be among them."""
        self.evicted: list[Message] = []
        """Dropped from memory, and not on disk yet."""
        self.groups = Groups(max_groups)
        self._sides: dict[_Name, SideLane] = {}
        self._turns = turns
        self._paging = paging

    def __iter__(self) -> Iterator[Message]:
        yield from self.main
        for side in self._sides.values():
            yield from side.messages

    @property
    def plain(self) -> bool:
        """All wait in `main`, for anyone."""
        return not (self._sides or self.grouped or self.avoided or self._turns.selecting)

    @property
    def load(self) -> tuple[int, int]:
        """How many of them the window is to bound, of how many bytes."""
        return self.count - len(self.returned), self.size - self._returned_size

    @property
    def returned_load(self) -> tuple[int, int]:
        """The same of the others."""
        return len(self.returned), self._returned_size

    # --- in and out

    def add(self, messages: list[Message], size: int) -> None:
        """In the order of their keys."""
        self.count += len(messages)
        self.size += size
        merge(self.main, messages)

    def take(self, count: int) -> list[Message]:
        """Where it is `plain`: the first so many."""
        main = self.main
        if count >= len(main):
            run = list(main)
            main.clear()
        else:
            pop = main.popleft
            run = [pop() for _ in range(count)]
        self.count -= len(run)
        self.size -= total_size(run)
        return run

    def first(self, count: int) -> list[Message]:
        """Take out the first so many, whomever they wait for."""
        if not self._sides:
            return self.take(count)
        keys = sorted(message.key for message in self)
        return self.drop(set(keys[:count]))

    def least(self, count: int) -> list[Message]:
        """Take out so many, whomever they wait for: the lowest priority first, of that the oldest."""
        if self._sides:
            together = Lane(sorted(self, key=key_of))
            return self.drop({message.key for message in take_least(together, count)})
        out = take_least(self.main, count)
        self.count -= len(out)
        self.size -= total_size(out)
        return out

    def drop(self, keys: set[int]) -> list[Message]:
        """Take out those of `keys` that are here."""
        out: list[Message] = []
        for lane in [self.main, *[side.messages for side in self._sides.values()]]:
            here = [message for message in lane if message.key in keys]
            if here:
                rest = [message for message in lane if message.key not in keys]
                lane.clear()
                lane.extend(rest)
                out += here
        self.count -= len(out)
        self.size -= total_size(out)
        return sorted(out, key=key_of)

    def drop_last(self, count: int, size: int) -> list[Message]:
        """Take out the last, but not the first, until only `count` messages of `size` bytes are left or all that may
        go is gone; all wait in `main`."""
        out: list[Message] = []
        stay: list[Message] = []
        over, over_size = self.load
        over, over_size = over - count, over_size - size
        while len(self.main) > 1 and (over > 0 or over_size > 0):
            message = self.main.pop()
            if message.key in self.returned:
                stay.append(message)
            else:
                out.append(message)
                over -= 1
                over_size -= len(message.frame)
        self.count -= len(out)
        self.size -= total_size(out)
        self.main.extend(reversed(stay))
        out.reverse()
        return out

    def drop_from(self, start: int) -> list[Message]:
        """Take out what may go from the key `start` on; all wait in `main`."""
        returned = self.returned
        return self.drop({message.key for message in self.main if message.key >= start and message.key not in returned})

    def gather(self) -> None:
        """All wait in `main` again, to be looked at anew; the cuts are forgotten."""
        sides, self._sides = self._sides, {}
        for side in sides.values():
            merge(self.main, list(side.messages))

    def regroup(self, gone: Consumer | None = None) -> bool:
        """Other consumers are here than before, or one is `gone`, but the selectors are the same: what waited for that
        one is looked at anew. False if all has to be, see `gather`."""
        if any(side.keeper is gone and side.is_cut for side in self._sides.values() if side.keeper):
            return False
        for name, side in list(self._sides.items()):
            if side.keeper is not None and side.keeper is gone:
                del self._sides[name]
                merge(self.main, list(side.messages))
        return True

    def come_back(self, messages: list[Message]) -> None:
        """In the order of their keys: these were delivered, and wait again."""
        for message in messages:
            self.returned[message.key] = size = len(message.frame)
            self._returned_size += size

    def left(self, keys: Iterable[int]) -> None:
        """These do not wait any more."""
        keys = list(keys)
        if self.returned:
            for key in keys:
                self._returned_size -= self.returned.pop(key, 0)
        if self.avoided:
            for key in keys:
                self.avoided.pop(key, None)

    # --- who gets what

    def choose(self, now: int) -> tuple[dict[Consumer, list[Message]], list[Message]]:
        """Take out what consumers with credit get now, which costs them their credit, and what expired on the way."""
        given: dict[Consumer, list[Message]] = {}
        late: list[Message] = []
        if self._turns.selecting:
            self._sort_in(now, late)
        horizons = self._horizons()
        everyone = SideLane((None,), self._paging.end)
        everyone.messages = self.main
        lanes = [everyone, *self._sides.values()]
        heap = [(lane.messages[0].key, place, lane) for place, lane in enumerate(lanes) if lane.messages]
        heapify(heap)
        place = len(lanes)
        while heap:
            key, _, lane = heappop(heap)
            # What was set aside in between may have made another message the first of its lane.
            if not lane.messages or lane.messages[0].key != key:
                continue
            message = lane.messages[0]
            if 0 < message.expires <= now:
                late.append(lane.messages.popleft())
            else:
                consumer, aside = self._taker(lane, message, horizons)
                if consumer is None and aside is None:
                    continue
                lane.messages.popleft()
                if consumer is not None:
                    given.setdefault(consumer, []).append(message)
                    if not consumer.instant:
                        consumer.credit -= 1
                    self.avoided.pop(key, None)
                elif aside is not None and self._set_aside(aside, message):
                    place += 1
                    heappush(heap, (key, place, aside))
            if lane.messages:
                place += 1
                heappush(heap, (lane.messages[0].key, place, lane))
        for messages in [late, *given.values()]:
            self.count -= len(messages)
            self.size -= total_size(messages)
        self._sides = {name: side for name, side in self._sides.items() if side.messages or side.is_cut}
        if not self.count:
            self.grouped = False
        return given, late

    def forget_groups(self) -> None:
        """Bound how many are remembered, once consumers have what was chosen for them."""
        self.groups.trim(self._sides.values())

    def _sort_in(self, now: int, late: list[Message]) -> None:
        """Look at what is new."""
        for message in self.main:
            if 0 < message.expires <= now:
                late.append(message)
            else:
                self._set_aside(self._side(self._wanted_by(message)), message)
        self.main.clear()

    def _wanted_by(self, message: Message) -> tuple[Selector | None, ...]:
        headers = headers_of(message.frame)
        return tuple(selector for selector in self._turns.rings if selector is None or selector.matches(headers))

    def _side(
        self,
        selectors: tuple[Selector | None, ...],
        keeper: Consumer | None = None,
    ) -> SideLane:
        name = (selectors if keeper is None else None, keeper)
        side = self._sides.get(name)
        if side is None:
            side = self._sides[name] = SideLane(selectors, self._paging.end, keeper=keeper)
        return side

    def _set_aside(self, side: SideLane, message: Message) -> bool:
        """`message` waits there; whether it is the first."""
        if message.key >= side.cut and message.key not in self.returned:
            self._pass_over([message])
            return False
        merge(side.messages, [message])
        return side.messages[0] is message

    def _taker(self, lane: SideLane, message: Message, horizons: _Horizons) -> tuple[Consumer | None, SideLane | None]:
        """Who gets the first `message` of `lane`, or where it is to wait instead; nothing if it stays."""
        if lane.keeper is not None:
            return (lane.keeper if self._may(lane.keeper, message.key, horizons) else None), None
        key = message.key
        group = message.group
        keeper = self.groups.keeper(group, lane.selectors) if group else None
        if keeper is not None:
            if self._may(keeper, key, horizons):
                return keeper, None
            return None, self._side(lane.selectors, keeper)
        consumer = self._next(lane, key, horizons, self.avoided.get(key))
        if consumer is not None:
            self._turns.served(consumer)
            if group:
                self.groups.bind(group, consumer)
        return consumer, None

    def _next(self, lane: SideLane, key: int, horizons: _Horizons, avoided: Consumer | None = None) -> Consumer | None:
        """Whose turn it is; that of who is `avoided` only if nobody else has credit, for others may never have it
        again."""
        selectors: Iterable[Selector | None] = lane.selectors
        barred: list[Consumer] = []
        if horizons:
            # What is only on disk comes first for them.
            selectors = [selector for selector in selectors if horizons.get(selector, key + 1) > key]
            barred += [each for each, cut in horizons.items() if cut <= key and isinstance(each, Consumer)]
        if avoided is not None:
            other = self._turns.next(selectors, [*barred, avoided])
            if other is not None:
                return other
        return self._turns.next(selectors, barred)

    def _may(self, consumer: Consumer, key: int, horizons: _Horizons) -> bool:
        """Whether it gets the message `key` that is for it alone now."""
        if consumer.credit <= 0 or not horizons or key in self.returned:
            return consumer.credit > 0
        return key < min(horizons.get(consumer.selector, key + 1), horizons.get(consumer, key + 1))

    def _horizons(self) -> _Horizons:
        """For selectors and consumers: from which key on something of theirs is only on disk."""
        horizons: _Horizons = {}
        if self._paging.passed:
            for side in self._sides.values():
                if side.is_cut:
                    for each in side.selectors if side.keeper is None else [side.keeper]:
                        horizons[each] = min(horizons.get(each, side.cut), side.cut)
        return horizons

    # --- what does not fit

    def thirst(self) -> tuple[bool, int | None]:
        """Whether a consumer with credit needs what is beyond the edge; from which key on one needs what was passed
        over. Nobody does while there is something to dispatch."""
        turns, end = self._turns, self._paging.end
        if turns.next(turns.rings, ()) is None or (turns.selecting and self.main):
            return False, None
        horizons = self._horizons()
        everyone = SideLane((None,), end)
        everyone.messages = self.main
        cut = end
        for lane in [everyone, *self._sides.values()]:
            if lane.messages and self._next_of(lane, lane.messages[0].key, horizons):
                return False, None
            if lane.is_cut and self._next_of(lane, 0, {}):
                cut = min(cut, lane.cut)
        free = [selector for selector in turns.rings if selector not in horizons]
        beyond = turns.next(free, [each for each in horizons if isinstance(each, Consumer)]) is not None
        return beyond, cut if cut < end else None

    def _next_of(self, lane: SideLane, key: int, horizons: _Horizons) -> Consumer | None:
        if lane.keeper is not None:
            return lane.keeper if self._may(lane.keeper, key, horizons) else None
        return self._next(lane, key, horizons)

    def make_room(self, count: int, size: int) -> int | None:
        """Drop messages that nobody here can have now, until about `count` of `size` bytes are left. Returns the
        lowest key dropped, None if none may be."""
        lowest = self._paging.end
        sides = [side for side in self._sides.values() if side.messages]
        nobodys = [side for side in sides if not side.selectors]
        for side in nobodys:
            lowest = min(lowest, self._cut(side, 0, 0))
        sides = [side for side in sides if side.selectors]
        load, load_size = self.load
        if load > count or load_size > size:
            for side in sides:
                lowest = min(lowest, self._cut(side, count // len(sides), size // len(sides)))
        return lowest if lowest < self._paging.end else None

    def _cut(self, side: SideLane, count: int, size: int) -> int:
        """Keep the first so many. Returns the lowest key dropped."""
        kept: list[Message] = []
        dropped: list[Message] = []
        for message in side.messages:
            size -= len(message.frame)
            if message.key in self.returned or (not dropped and len(kept) < count and size >= 0):
                kept.append(message)
            else:
                dropped.append(message)
        if not dropped:
            return self._paging.end
        side.messages.clear()
        side.messages.extend(kept)
        side.cut = min(side.cut, dropped[0].key)
        self._pass_over(dropped)
        return dropped[0].key

    def _pass_over(self, messages: list[Message]) -> None:
        size = total_size(messages)
        self.count -= len(messages)
        self.size -= size
        self._paging.passed_over(list(map(key_of, messages)), size)
        self.evicted += made_persistent(messages)

    def refill(self, messages: list[Message], after: int, before: int) -> None:
        """Of what was passed over, `messages` are all that there is between these keys."""
        paging = self._paging
        full = [
            side for side in self._sides.values() if side.is_cut and side.cut > after and self._next_of(side, 0, {})
        ]
        taken = size = 0
        for message in messages:
            target = self._place_of(message)
            if target is not None and target in full and message.key >= target.cut:
                merge(target.messages, [message])
                paging.known.add(message.key)
                taken += 1
                size += len(message.frame)
        for side in full:
            if side.cut < before:
                side.cut = before if before < paging.edge else paging.end
        self.count += taken
        self.size += size
        paging.take_passed(taken, size)
        self.close_cuts()

    def close_cuts(self) -> None:
        """If nothing is passed over any more, the cuts are gone."""
        if not self._paging.passed:
            for side in self._sides.values():
                side.cut = self._paging.end

    def _place_of(self, message: Message) -> SideLane | None:
        """Where it waited, had it not been passed over."""
        selectors = self._wanted_by(message) if self._turns.selecting else (None,)
        keeper = self.groups.keeper(message.group, selectors) if message.group else None
        if keeper is not None:
            own = self._sides.get((None, keeper))
            if own is not None and message.key >= own.cut:
                return own
        return self._sides.get((selectors, None))

    @property
    def cut(self) -> bool:
        """Whether anything that was passed over belongs to a lane."""
        return any(side.is_cut for side in self._sides.values())
