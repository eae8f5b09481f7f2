"""The part of the schema that is about messages on their way: what waits for clients, the rules for destinations,
queues and their store, and the links between workers."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from common.config.kinds import COLD, HOT, Choice, Count, DeadLetterQueue, Duration, Flag, Pattern, Size
from common.config.section import GIB, KIB, MIB, Section

__all__ = [
    "Backplane",
    "Cache",
    "Destination",
    "Expired",
    "Outbox",
    "Queue",
    "Retain",
    "Retained",
    "SlowConsumer",
    "Store",
    "WhenFull",
]

SlowConsumer = Literal["block", "drop", "disconnect"]
WhenFull = Literal["block", "reject", "drop-head"]
Expired = Literal["drop", "dead-letter"]
Retain = Literal["none", "last"]


class Outbox(Section):
    """What waits to be sent to one client. `low_bytes` <= `high_bytes` <= `max_bytes`."""

    high_bytes: Annotated[int, Size(KIB, 4 * GIB), HOT] = Field(
        default=4 * MIB,
        description="Above this the publishers that feed the connection are paused. Room for a second or so"
        " of a fast topic, so that a short hiccup of a subscriber pauses nobody.",
    )
    low_bytes: Annotated[int, Size(0, 4 * GIB), HOT] = Field(
        default=MIB,
        description="Below this they go on. Well under `high_bytes`, because stopping and going on in quick"
        " turns costs more than the pause.",
    )
    max_bytes: Annotated[int, Size(KIB, 16 * GIB), HOT] = Field(
        default=64 * MIB,
        description="Above this the subscriber is disconnected at once, whatever the policy: it bounds the"
        " memory of a connection while publishers on other workers have yet to hear that they should pause."
        " Keep it above `limits.body_bytes`, else the largest messages disconnect whoever subscribes to"
        " them.",
    )
    block_timeout: Annotated[float, Duration(0, 600), HOT] = Field(
        default=10.0,
        description="How long publishers are paused for a slow subscriber before it is disconnected"
        " instead. One stuck client must not stop a topic for good. Also how long a client is paused that consumes from"
        " the full queue it sends to, before it is told that it waits for itself.",
    )
    linger: Annotated[float, Duration(0, 60), HOT] = Field(
        default=2.0,
        description="The time a closing connection gets to read its last frames, so that an ERROR or a"
        " RECEIPT arrives before the end of the connection does.",
    )


class Destination(Section):
    """Rules for the destinations that match a pattern. One `[[destination]]` table each; the first match
    wins."""

    pattern: Annotated[str, Pattern(), HOT] = Field(
        description="The destinations the rule is for. Words are separated by dots; `*` stands for one, `#`"
        ' for any number, a last `>` for the rest: `"/topic/ticks.>"`.',
    )
    slow_consumer: Annotated[SlowConsumer, Choice(get_args(SlowConsumer)), HOT] = Field(
        default="block",
        description="What happens when a subscriber's outbox is full. `block` pauses the publishers, for at"
        " most `outbox.block_timeout`, since losing messages is a decision; `drop` leaves messages out for"
        " that subscriber and counts them, for data that is soon outdated; `disconnect` closes it at once,"
        " for clients that fetch the state anew when they reconnect.",
    )
    persistent: Annotated[bool, Flag(), HOT] = Field(
        default=True,
        description="Whether messages in queues are stored on disk, so that they survive whatever dies. With `false`"
        " they are in memory alone, whatever their sender asks for: faster, and gone with the worker that"
        " holds the queue. Senders opt out for single messages by the header `persistent:false`.",
    )
    max_messages: Annotated[int, Count(0, 1_000_000_000, "messages"), HOT] = Field(
        default=0,
        description="Messages in one queue, those included that consumers have not acknowledged, but not those that are"
        " delayed: these count from when they are due, and come in then in any case. At this many the queue is full and"
        " `when_full` says what happens; 0 is no limit, since memory is bounded by `queue.window_bytes` and the disk by"
        " `store.quota_bytes`.",
    )
    max_bytes: Annotated[int, Size(0, 1024 * GIB), HOT] = Field(
        default=0,
        description="Bytes in one queue, headers included; 0 is no limit. Worth setting where one queue that nobody"
        " reads must not take the whole disk from the others.",
    )
    when_full: Annotated[WhenFull, Choice(get_args(WhenFull)), HOT] = Field(
        default="block",
        description="What happens to messages for a queue that has reached `max_messages` or `max_bytes`. `block`"
        " pauses their senders until there is room, because losing messages is a decision; what they had sent by then"
        " comes in on top, and their connections are not read, so that ACKs wait, too: consume on another one"
        " (who waits for its own ACKs is told so after `outbox.block_timeout`). `reject`"
        " answers what does not fit with an ERROR, for senders that have something better to do than to wait;"
        " `drop-head` makes room by taking out the oldest of the lowest priority that waits, which becomes a dead"
        " letter, for data that is soon outdated. Where a queue is larger than its window (`queue.window_messages`),"
        " only what is in memory, the next to be delivered, is looked at.",
    )
    prefetch: Annotated[int, Count(1, 65_535, "messages"), HOT] = Field(
        default=100,
        description="Messages a consumer with `ack:client` or `client-individual` may hold unacknowledged before it"
        " gets more, unless its SUBSCRIBE says otherwise (`prefetch-count`). Enough to keep a fast consumer busy over"
        " a network; 1 shares slow work most evenly. At most `limits.unacknowledged`. Consumers that ask for more than"
        " this get more only while they hold less than 8 MiB.",
    )
    redelivery_limit: Annotated[int, Count(0, 10_000, "redeliveries"), HOT] = Field(
        default=20,
        description="How often a message is delivered again after its first delivery failed: a NACK, or a consumer"
        " that was lost while this was the oldest message it had not answered. What a consumer gives back in order, by"
        " UNSUBSCRIBE or DISCONNECT, and what it had in advance, has not failed. What"
        " fails still becomes a dead letter, so that a message no consumer can handle does not go round for ever."
        " 0 is no limit.",
    )
    redelivery_delay: Annotated[float, Duration(0, 3600), HOT] = Field(
        default=0.1,
        description="The pause before the second redelivery after a NACK; it doubles with each one more, up to"
        " `redelivery_delay_max`. The first comes at once, since most faults are short; the pause keeps a message"
        " that fails every time from taking all the time of its consumers. NACK may ask for another one (`delay`).",
    )
    redelivery_delay_max: Annotated[float, Duration(0, 86_400), HOT] = Field(
        default=30.0,
        description="The longest pause. With the other defaults a message is tried for about six minutes, which"
        " outlasts the restart of a database.",
    )
    dead_letter: Annotated[str, DeadLetterQueue(), HOT] = Field(
        default="/queue/dlq.{name}",
        description="The queue for messages that failed for good: over `redelivery_limit`, rejected by NACK with"
        " `requeue:false`, taken out by `drop-head`, or expired where `expired` says so. One for each queue by default,"
        ' so that it is known what belongs where; `""` drops them. Queues that dead letters go to have none of their'
        " own: neither those whose names are of this form nor any that starts with `/queue/dlq.`.",
    )
    expired: Annotated[Expired, Choice(get_args(Expired)), HOT] = Field(
        default="drop",
        description="What happens to messages whose time (`ttl`, `expires`) is up before they were delivered. `drop`,"
        " because their sender said when they become worthless; `dead-letter` where somebody should know.",
    )
    retain: Annotated[Retain, Choice(get_args(Retain)), HOT] = Field(
        default="none",
        description="Whether the last message to each topic is kept for those who subscribe later. With `last` a new"
        " subscriber gets it at once, marked `retained:true`: for values such as a price or a state, of which only the"
        " newest counts. Senders ask for it for single messages by the header `retain:true`.",
    )


class Queue(Section):
    """What queues take of each worker. Rules for single queues are in `[[destination]]`."""

    window_messages: Annotated[int, Count(16, 1_000_000, "messages"), HOT] = Field(
        default=16384,
        description="Messages of one queue that are in memory, those at its head; the others are on disk until it is"
        " their turn. Enough for the next reads from disk to come before the consumers have to wait.",
    )
    window_bytes: Annotated[int, Size(64 * KIB, GIB), HOT] = Field(
        default=4 * MIB,
        description="The bytes of them. It bounds the memory of one queue, however many messages it holds; what is not"
        " on disk (`persistent:false`) stays in memory beyond it, and so does what consumers hold unacknowledged.",
    )
    max_queues: Annotated[int, Count(1, 500_000, "queues"), HOT] = Field(
        default=100_000,
        description="Queues of one worker, durable subscriptions and temporary queues included. Anybody who may send"
        " can make queues, and each costs memory even while it is empty. Beyond, what would make one more gets an"
        " ERROR.",
    )
    idle_timeout: Annotated[float, Duration(1, 86_400), HOT] = Field(
        default=60.0,
        description="How long an empty queue that nobody uses is remembered. Long enough for a consumer that"
        " reconnects, short enough for names that are used once.",
    )
    handoff_bytes: Annotated[int, Size(64 * KIB, GIB), HOT] = Field(
        default=16 * MIB,
        description="What one worker may have on its way to the queues of another, not yet confirmed, before the"
        " senders are paused. Persistent messages are confirmed when they are on disk, so it holds what arrives during"
        " a commit or two of a slow disk.",
    )
    idempotency_window: Annotated[float, Duration(1, 604_800), HOT] = Field(
        default=600.0,
        description="How long the `idempotency-key` of a message is remembered. A second message with the same key to"
        " the same destination is not stored again; its RECEIPT says so. Longer than clients go on sending again what"
        " was not receipted.",
    )
    idempotency_keys: Annotated[int, Count(1, 10_000_000, "keys"), HOT] = Field(
        default=100_000,
        description="Keys remembered per worker; beyond, the oldest are forgotten first. Each costs memory and a row"
        " on disk.",
    )


class Retained(Section):
    """The last messages of topics, kept for those who subscribe later (`destination.retain`, the header
    `retain:true`)."""

    max_messages: Annotated[int, Count(0, 10_000_000, "messages"), HOT] = Field(
        default=100_000,
        description="Topics whose last message one worker keeps, as their owner. Beyond, those go that were sent the"
        " longest ago, with a line in the log: a publisher that never repeats a topic must not be stopped by it, nor"
        " take the memory of all. 0 keeps none.",
    )
    max_bytes: Annotated[int, Size(0, 16 * GIB), HOT] = Field(
        default=32 * MIB,
        description="The bytes of them, headers included. Every worker holds those of all workers in memory, to answer"
        " its own subscribers at once: with four workers, up to four times as much in each. A message that is larger"
        " than this by itself is not kept.",
    )


class Store(Section):
    """The files that hold persistent messages, one database per worker in `broker.data_dir`."""

    quota_bytes: Annotated[int, Size(0, 1024 * 1024 * GIB), HOT] = Field(
        default=0,
        description="Bytes on disk per worker. Over it, persistent messages get an ERROR until consumers made room, and"
        " nothing that is stored is harmed; the same happens when the disk is full. 0 is as much as the disk has.",
    )
    pending_bytes: Annotated[int, Size(64 * KIB, 4 * GIB), HOT] = Field(
        default=32 * MIB,
        description="What may wait for the disk in one worker before the senders of persistent messages are paused."
        " All that arrives during a commit is in the next one, so a slow disk needs larger commits, not more of them.",
    )
    wal_bytes: Annotated[int, Size(MIB, 4 * GIB), COLD] = Field(
        default=64 * MIB,
        description="How large the write-ahead log of a database grows before it is copied into the database. Messages"
        " that are consumed before that cost no second write; a larger log takes longer to read at the next start.",
    )
    retry_interval: Annotated[float, Duration(0.01, 60), COLD] = Field(
        default=1.0,
        description="How often a store that could not write (the disk is full, or does not answer) is tried again. Soon"
        " enough that nobody has to restart anything once there is room.",
    )


class Backplane(Section):
    """The links between workers."""

    high_water_mark: Annotated[int, Count(1, 1_000_000, "messages"), COLD] = Field(
        default=16,
        description="Messages of at most 256 KiB that a link holds at each of its ends: by default 8 MiB in all. So"
        " much of a sibling's can still be under way to a subscriber that became slow, after its publishers were"
        " paused; that of all siblings together should fit into `outbox.max_bytes`, else it is disconnected for what"
        " nobody could hold back any more. Small batches need no higher mark: those that find a link full are joined"
        " into larger messages. Larger bodies travel in pieces of that size.",
    )
    retry_interval: Annotated[float, Duration(0.001, 1), COLD] = Field(
        default=0.02,
        description="How often a full link is tried again. ZeroMQ tells no sender that a full link has room"
        " again, so somebody has to look; 20 ms is not felt by a publisher that was paused.",
    )
    kept_bytes: Annotated[int, Size(0, GIB), COLD] = Field(
        default=MIB,
        description="What may wait for room on full links, per destination, before its publishers are paused; they go"
        " on when all of it has gone. A few milliseconds of a busy topic, so a sibling that has other things to do"
        " for a moment pauses nobody: with 256 KiB, publishers of small batches stood still a third of the time. What"
        " each publisher had sent by then comes on top: one read, or one message where that is larger (see"
        " `limits.body_bytes`).",
    )
    kept_total_bytes: Annotated[int, Size(0, 4 * GIB), COLD] = Field(
        default=4 * MIB,
        description="What may wait for room on full links in one worker, for all destinations together, before the"
        " publishers to every destination among them are paused. It bounds the memory where thousands of destinations"
        " each keep less than `kept_bytes`.",
    )


class Cache(Section):
    """What workers remember to do work only once."""

    header_blocks_bytes: Annotated[int, Size(0, GIB), HOT] = Field(
        default=64 * MIB,
        description="Header blocks already parsed and checked, per worker. Publishers repeat theirs, and"
        " finding one again costs a fraction of reading it. Only blocks seen twice are kept, about half a"
        " kilobyte each, so the bound matters where publishers use tens of thousands of destinations. A third"
        " of it for each protocol version; 0 turns it off.",
    )
