"""Which keys were seen: within the window, each in its queue, the youngest kept."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.queues.idempotency import Seen
from worker.store.interface import PutKeys

laws = settings(max_examples=300, deadline=None)

_keys = st.dictionaries(st.integers(0, 5), st.sampled_from([b"a", b"b", b"c", b"d"]), max_size=6)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from([b"/queue/a", b"/queue/b"]), _keys),
        st.tuples(st.just("later"), st.sampled_from([1, 400, 999, 1000, 1001, 5000])),
        st.tuples(st.just("forget")),
        st.tuples(st.just("refused")),
    ),
    max_size=30,
)


@laws
@given(_steps, st.integers(1, 8))
def test_as_one_key_after_the_other(steps: list[tuple[object, ...]], count: int) -> None:
    """Against a list of what was seen, oldest first."""
    seen = Seen(1.0, count)
    model: list[tuple[bytes, bytes, bytes, int]] = []
    now, batch, last = 1_000_000, 0, None

    def first(queue: bytes, key: bytes) -> bytes | None:
        return next(
            (id for at_queue, other, id, at in model if (at_queue, other) == (queue, key) and at + 1000 > now), None
        )

    for kind, *rest in steps:
        if kind == "later":
            now += rest[0]  # type: ignore[operator]
        elif kind == "forget":
            while model and (model[0][3] + 1000 <= now or len(model) > count):
                del model[0]
            assert seen.forget(now) == (model[0][3] if model else now)
        elif kind == "refused":
            if last is not None:
                seen.remove(last)
                gone = {(last.destination.encode(), key) for key in last.keys}
                model = [each for each in model if each[:2] not in gone]
                last = None
        else:
            queue, keys = rest
            assert isinstance(queue, bytes) and isinstance(keys, dict)
            batch += 1
            prefix = b"%d-" % batch
            repeats, new = {}, []
            for place, key in keys.items():
                before = first(queue, key)
                if before is not None:
                    repeats[place] = before
                    continue
                model = [each for each in model if each[:2] != (queue, key)]
                model.append((queue, key, b"%b%d" % (prefix, place), now))
                new.append(model[-1])
            last, found = seen.add(queue, keys, prefix, [b"%d\nx:y\n\n\0" % place for place in range(6)], now)
            assert found == repeats
            if last is None:
                assert not new
            else:
                pairs = zip(last.keys, last.message_ids, strict=True)
                assert [(last.destination.encode(), key, id, last.at) for key, id in pairs] == new
        for queue in (b"/queue/a", b"/queue/b"):
            for key in (b"a", b"b", b"c", b"d"):
                assert seen.find(queue, key, now) == first(queue, key)


def test_what_the_store_had_counts() -> None:
    seen = Seen(1.0, 10)
    seen.recover([PutKeys("/queue/a", [b"k"], [b"m"], 5000)])
    assert seen.add(b"/queue/a", {0: b"k", 1: b"l"}, b"1-", [b"0\n\0", b"1\n\0"], 5999)[1] == {0: b"m"}
    new, repeats = seen.add(b"/queue/a", {0: b"k"}, b"2-", [b"0\n\0"], 6000)
    assert new is not None and new.message_ids == [b"2-0"] and not repeats


def test_one_that_comes_back_after_its_time_is_the_youngest() -> None:
    seen = Seen(1.0, 2)
    items = [b"0\n\0", b"1\n\0"]
    seen.add(b"/queue/a", {0: b"k", 1: b"l"}, b"1-", items, 5000)
    seen.add(b"/queue/a", {0: b"k", 1: b"m"}, b"2-", items, 6000)
    assert seen.forget(6000) == 6000
    assert seen.find(b"/queue/a", b"k", 6000) == b"2-0"
    seen.limit(1.0, 1)
    seen.forget(6000)
    assert [seen.find(b"/queue/a", key, 6000) for key in (b"k", b"l", b"m")] == [None, None, b"2-1"]
