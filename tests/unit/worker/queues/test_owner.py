"""What the owner of queues must never do to a message, whatever the store does meanwhile."""

from __future__ import annotations

from tests.unit.worker.queues.lone_owner import ELSEWHERE, LoneOwner
from worker.queues.letters import END, SETTLE
from worker.store.interface import StoreError
from worker.traits import Traits

FULL = StoreError("no room", full=True)


def test_selectors_pass_messages_over_that_were_in_memory_alone() -> None:
    lone = LoneOwner(queue={"window_messages": 16})
    lone.attach("/queue/q", 1, prefetch=1000, selector="colour = 'red'")
    lone.settled()
    traits = {each: Traits(persistent=False) for each in range(100)}
    lone.add("/queue/q", *[f"m{each}" for each in range(100)], traits=traits)
    lone.settled()
    lone.attach("/queue/q", 2, prefetch=1000)
    for _ in range(100):
        lone.settled()
        lone.owner.flush()
    assert lone.ids(2) == [f"m{each}" for each in range(100)]
    lone.settle("/queue/q", 2, *lone.ids(2))
    lone.settled()
    assert not lone.store.rows


def test_what_is_stored_has_a_queue() -> None:
    """Also when the store had no room when it was told of the queue for the first time."""
    lone = LoneOwner()
    lone.store.fault = FULL
    lone.add("/queue/q", "a", traits={0: Traits(persistent=False)})
    lone.settled()
    lone.store.fault = None
    lone.add("/queue/q", "b")
    lone.settled()
    assert lone.stored() == ["b"]
    assert [each.name for each in lone.store.queues.values()] == ["/queue/q"]


def test_one_with_room_after_one_without() -> None:
    lone = LoneOwner()
    refused = lone.add("/queue/q", "a", body=b"x" * 1000)
    taken = lone.add("/queue/q", "b")
    lone.store.room = 100
    lone.store.commit()
    assert refused[0].refused and taken[0].refused is None
    assert lone.stored() == ["b"]
    assert [each.name for each in lone.store.queues.values()] == ["/queue/q"]


def test_a_key_counts_only_for_what_was_taken() -> None:
    """A producer sends again what did not fit, and then it must come."""
    lone = LoneOwner(destination=[{"pattern": "/queue/q", "max_messages": 2, "when_full": "reject"}])
    keys = {each: b"k%d" % each for each in range(3)}
    [outcome] = lone.commit_of(lone.add("/queue/q", "a", "b", "c", keys=keys))
    assert outcome.refused and outcome.place == 2
    lone.attach("/queue/q", 1)
    lone.settled()
    lone.settle("/queue/q", 1, "a", "b")
    [outcome] = lone.commit_of(lone.add("/queue/q", "again", keys={0: keys[2]}))
    assert outcome.refused is None and not outcome.duplicates
    assert lone.ids(1) == ["a", "b", "again"]


def test_a_repeat_fails_with_the_first() -> None:
    lone = LoneOwner()
    key = {0: b"k"}
    first, second = lone.add("/queue/q", "a", keys=key), lone.add("/queue/q", "b", keys=key)
    lone.store.room = 0
    lone.settled()
    assert first[0].refused and second[0].refused
    lone.store.room = None
    [third] = lone.commit_of(lone.add("/queue/q", "c", keys=key))
    assert third.refused is None and not third.duplicates
    assert lone.stored() == ["c"]


def test_a_dead_letter_has_a_place_when_there_are_too_many_queues() -> None:
    lone = LoneOwner(queue={"max_queues": 1})
    lone.attach("/queue/q", 1)
    lone.add("/queue/q", "m")
    lone.settled()
    lone.nack("/queue/q", 1, "m", requeue=False)
    lone.settled()
    assert lone.stored() == ["m"]
    assert lone.queue("/queue/dlq.q").queue.messages == 1


def test_what_was_put_off_has_a_place_when_there_are_too_many_queues() -> None:
    lone = LoneOwner(queue={"max_queues": 1, "idle_timeout": "1s"})
    lone.add("/queue/q", "m", traits={0: Traits(delay=100_000)})
    lone.settled()
    for _ in range(3):
        lone.wake(1000)
        lone.settled()
    lone.add("/queue/other", "o")
    lone.settled()
    lone.wake(100_000)
    lone.settled()
    assert sorted(lone.stored()) == ["m", "o"]


def test_a_worker_that_dies_leaves_dead_letters_in_the_store() -> None:
    lone = LoneOwner(destination=[{"pattern": "/queue/q", "redelivery_limit": 1}])
    for id in ("a", "b"):
        lone.add("/queue/q", id, traits={0: Traits(persistent=False)})
        for _ in range(2):
            lone.attach("/queue/q", 1)
            lone.settled()
            lone.owner.consumers.lost(1)
            lone.owner.flush()
            lone.settled()
    assert lone.ids(1) == ["a", "a", "b", "b"]
    assert lone.stored() == ["a", "b"]


def test_the_next_life_blames_nothing_for_what_was_given_back() -> None:
    lone = LoneOwner(destination=[{"pattern": "/queue/q", "redelivery_limit": 2}])
    lone.add("/queue/q", "a", "b")
    for orderly in (True, True, True, False):
        lone.attach("/queue/q", 1)
        lone.settled()
        lone.detach("/queue/q", 1, orderly=orderly)
        lone.settled()
    again = LoneOwner(lone.store, lone.store.recovered(), destination=[{"pattern": "/queue/q", "redelivery_limit": 2}])
    for number in (2, 3):
        again.attach("/queue/q", number)
        again.settled()
        again.detach("/queue/q", number, orderly=False)
        again.settled()
    # It was the oldest of a consumer that broke off three times.
    assert again.stored() == ["b", "a"]
    assert again.delivered[2] == [("a", 2), ("b", 2)]


def test_oldest_first_when_a_queue_is_larger_than_its_window() -> None:
    rule = {"pattern": "/queue/q", "max_messages": 100, "when_full": "drop-head", "dead_letter": ""}
    lone = LoneOwner(queue={"window_messages": 16}, destination=[rule])
    for each in range(300):
        lone.add("/queue/q", f"m{each}")
        lone.settled()
    assert lone.queue("/queue/q").queue.messages == 100
    assert lone.stored() == [f"m{each}" for each in range(200, 300)]


def test_producers_go_on_when_their_limit_is_raised() -> None:
    rule = {"pattern": "/queue/q", "max_messages": 2}
    lone = LoneOwner(destination=[rule])
    lone.add("/queue/q", "a", "b")
    assert lone.held_up
    lone.configure(destination=[{**rule, "max_messages": 100}])
    assert not lone.held_up


def test_producers_go_on_when_what_filled_the_queue_could_not_be_stored() -> None:
    lone = LoneOwner(destination=[{"pattern": "/queue/q", "max_messages": 2}])
    lone.add("/queue/q", "a", "b")
    lone.store.fault = FULL
    assert lone.held_up
    lone.settled()
    assert not lone.held_up


def test_an_acknowledgement_of_what_is_only_on_disk_waits_for_the_disk() -> None:
    lone = LoneOwner()
    lone.add("/queue/q", "a", "b")
    lone.settled()
    again = LoneOwner(lone.store, lone.store.recovered())
    key = min(lone.store.rows)
    lone.store.answers_wait = True
    outcomes = again.apply(["-", b"/queue/q", 7, [key]])
    assert not outcomes
    lone.store.answer()
    assert not outcomes
    again.settled()
    assert [each.refused for each in outcomes] == [None]
    assert lone.stored() == ["b"]


def test_an_acknowledgement_of_what_comes_from_disk_meanwhile() -> None:
    lone = LoneOwner()
    lone.add("/queue/q", "a", "b")
    lone.settled()
    again = LoneOwner(lone.store, lone.store.recovered())
    key = min(lone.store.rows)
    lone.store.answers_wait = True
    again.attach("/queue/q", 1)
    again.settled()
    again.apply(["-", b"/queue/q", 7, [key]])
    lone.store.answer()
    again.settled()
    assert lone.stored() == ["b"]


def test_a_refusal_of_what_is_only_on_disk_is_final() -> None:
    """The consumer refused it, the owner died, and got the refusal again."""
    lone = LoneOwner()
    lone.add("/queue/q", "a", "b")
    lone.settled()
    again = LoneOwner(lone.store, lone.store.recovered())
    key = min(lone.store.rows)
    again.apply(["~", b"/queue/q", 7, [key], None, False, "no good"])
    again.settled()
    assert again.queue("/queue/dlq.q").queue.messages == 1
    assert again.queue("/queue/q").queue.messages == 1


def test_deliveries_of_a_worker_that_dies_while_they_are_looked_up() -> None:
    lone = LoneOwner()
    lone.add("/queue/q", "a", "b")
    lone.settled()
    again = LoneOwner(lone.store, lone.store.recovered())
    options = {"prefetch": 9, "auto": False, "selector": "", "exclusive": False, "feed": None, "instant": False}
    lone.store.answers_wait = True
    again.owner.consumers.reattach(b"/queue/q", (1, 5), options, sorted(lone.store.rows), lambda: None)
    again.owner.consumers.lost(1)
    lone.store.answer()
    lone.store.answers_wait = False
    again.attach("/queue/q", 6)
    again.settled()
    assert again.ids(6) == ["a", "b"]


def test_keys_are_not_used_again_when_a_number_is() -> None:
    """What is still on its way for the old queue must find nothing in the new one."""
    feed = [b"/durable/d", b"/topic/t", "", False, True]
    lone = LoneOwner()
    lone.attach("/durable/d", 1, feed=feed)
    lone.add("/durable/d", *[f"m{each}" for each in range(2000)])
    lone.settled()
    old = set(lone.keys.values())
    lone.apply([END, b"/durable/d"])
    lone.settled()
    lone.add("/queue/q", *[f"n{each}" for each in range(2000)])
    lone.settled()
    assert not old.intersection(lone.store.rows)


def test_nothing_comes_of_a_subscription_that_ended() -> None:
    feed = [b"/durable/d", b"/topic/t", "", False, True]
    lone = LoneOwner()
    lone.attach("/durable/d", 1, feed=feed)
    lone.add("/durable/d", "a")
    lone.detach("/durable/d", 1)
    lone.settled()
    again = LoneOwner(lone.store, lone.store.recovered())
    again.attach("/durable/d", 2, feed=feed)
    again.apply([END, b"/durable/d"])
    again.settled()
    assert again.ids(2) == []


def test_refusals_do_not_pile_up() -> None:
    """One time to wake for a queue, however often its messages were refused, though some always rest."""
    lone = LoneOwner(destination=[{"pattern": "#", "redelivery_limit": 0}])
    lone.attach("/queue/q", 1)
    lone.add("/queue/q", *[f"m{each}" for each in range(10)])
    lone.settled()
    for _ in range(200):
        for id in [id for id, key in lone.keys.items() if any(key in each.unsettled for each in lone.consumers())]:
            lone.nack("/queue/q", 1, id, delay=7)
            lone.wake(1)
        lone.wake(1)
    assert len(lone.owner.upkeep._resting) <= 2


def test_what_expires_in_a_queue_that_was_recovered() -> None:
    lone = LoneOwner()
    lone.add("/queue/q", "a", traits={0: Traits(ttl=1000)})
    lone.settled()
    again = LoneOwner(lone.store, lone.store.recovered())
    assert any(again.time < when <= again.time + 1000 for when in again.wakes)


def test_two_consumers_of_one_client_that_stops_to_read_between_them() -> None:
    """What went to the second was settled by that, as was the first's."""
    lone = LoneOwner()
    for number in (1, 2):
        lone.attach("/queue/q", number, instant=True)
    lone.settled()

    def full() -> None:
        for number in (1, 2):
            lone.owner.consumers.instant((1, number), False)

    lone.on_delivery = full
    lone.add("/queue/q", "a", "b")
    lone.settled()
    assert lone.ids(1) + lone.ids(2) == ["a", "b"]
    assert lone.stored() == []


def test_dead_letters_of_another_owner_leave_with_what_counts_units() -> None:
    lone = LoneOwner(destination=[{"pattern": "/queue/q", "dead_letter": ELSEWHERE.decode()}])
    lone.attach("/queue/q", 1)
    lone.add("/queue/q", "a")
    lone.settled()
    lone.nack("/queue/q", 1, "a", requeue=False)
    lone.settled()
    assert lone.stored() == []
    assert len(lone.sent_across) == 1


def test_a_refusal_between_two_that_are_stored_is_no_receipt_in_the_next_life() -> None:
    lone = LoneOwner()
    large = lone.adding("/queue/q", "large", body=b"x" * 1000)
    lone.store.room = 100
    [refused] = lone.commit_of(lone.apply(large, sequence=5))
    lone.commit_of(lone.apply(lone.adding("/queue/q", "small"), sequence=6))
    assert refused.refused
    # Nobody heard of the refusal: the origin hands off both again.
    again = LoneOwner(lone.store, lone.store.recovered())
    lone.store.room = None
    outcomes = again.commit_of(again.apply(large, sequence=5)) + again.commit_of(
        again.apply(again.adding("/queue/q", "small"), sequence=6)
    )
    assert [each.refused for each in outcomes] == [None, None]
    assert sorted(again.stored()) == ["large", "small"]


def test_all_that_was_written_is_stored_with_what_it_awaits() -> None:
    """A settlement of what is not in memory is done when it was looked up."""
    lone = LoneOwner()
    lone.attach("/queue/q", 1)
    lone.add("/queue/q", "m")
    lone.settled()
    told: list[str] = []
    lone.owner.when_stored(lambda: told.append("at once"))
    assert told == ["at once"]
    lone.store.answers_wait = True
    outcomes = lone.apply([SETTLE, b"/queue/q", 1, [lone.keys["m"] + 1]])
    lone.settled()
    lone.owner.when_stored(lambda: told.append("looked up"))
    lone.settled()
    assert (told, outcomes) == (["at once"], [])
    lone.store.answer()
    lone.settled()
    assert told == ["at once", "looked up"]
    assert [outcome.refused for outcome in outcomes] == [None]
