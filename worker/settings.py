"""What a worker looks up on its hot paths, taken out of the configuration once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.codec import Limits
from common.config import Config
from worker.queues.policy import Policies

__all__ = ["ListenerSettings", "QueueSettings", "Settings"]


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """One listener's rules; times in seconds, heart-beats in milliseconds where the protocol has them so."""

    name: str
    hosts: frozenset[str]
    connect_timeout: float
    heart_beat: tuple[int, int]
    """What the broker offers and wants: `sx, sy` of the CONNECTED frame."""
    slowest_beat: float
    send_factor: float
    receive_factor: float


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What bounds the queues and the store of one worker. Sizes in bytes, times in seconds."""

    data_dir: Path
    """Absolute, if it came from the front."""
    window_messages: int
    window_bytes: int
    max_queues: int
    idle_timeout: float
    handoff_bytes: int
    idempotency_window: float
    idempotency_keys: int
    quota_bytes: int
    """0 for no limit."""
    pending_bytes: int
    wal_bytes: int
    retry_interval: float
    retained_messages: int
    retained_bytes: int

    @classmethod
    def of(cls, config: Config) -> QueueSettings:
        queue, store = config.queue, config.store
        return cls(
            data_dir=config.broker.data_dir,
            window_messages=queue.window_messages,
            window_bytes=queue.window_bytes,
            max_queues=queue.max_queues,
            idle_timeout=queue.idle_timeout,
            handoff_bytes=queue.handoff_bytes,
            idempotency_window=queue.idempotency_window,
            idempotency_keys=queue.idempotency_keys,
            quota_bytes=store.quota_bytes,
            pending_bytes=store.pending_bytes,
            wal_bytes=store.wal_bytes,
            retry_interval=store.retry_interval,
            retained_messages=config.retained.max_messages,
            retained_bytes=config.retained.max_bytes,
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes in bytes, times in seconds."""

    server: str
    limits: Limits
    login_limits: Limits
    connections: int
    destination_bytes: int
    subscriptions: int
    unacknowledged: int
    transactions: int
    transaction_frames: int
    transaction_bytes: int
    outbox_high: int
    outbox_low: int
    outbox_max: int
    block_timeout: float
    linger: float
    header_cache_bytes: int
    policies: tuple[tuple[bytes, str], ...]
    """What happens to slow subscribers, by pattern."""
    queue: QueueSettings
    queue_policies: Policies

    @classmethod
    def of(cls, config: Config, version: str, open_files: int) -> Settings:
        """`open_files` is the process's limit, from which `limits.connections = "auto"` follows."""
        limits, outbox = config.limits, config.outbox
        frame = Limits(
            command_bytes=limits.command_bytes,
            header_count=limits.header_count,
            header_line_bytes=limits.header_line_bytes,
            head_bytes=limits.head_bytes,
            body_bytes=limits.body_bytes,
        )
        return cls(
            server=f"stampede/{version}" if config.broker.announce_version else "stampede",
            limits=frame,
            login_limits=Limits(
                command_bytes=limits.command_bytes,
                header_count=limits.header_count,
                header_line_bytes=limits.header_line_bytes,
                head_bytes=limits.login_head_bytes,
                body_bytes=limits.body_bytes,
            ),
            connections=limits.connection_count(open_files),
            destination_bytes=limits.destination_bytes,
            subscriptions=limits.subscriptions,
            unacknowledged=limits.unacknowledged,
            transactions=limits.transactions,
            transaction_frames=limits.transaction_frames,
            transaction_bytes=limits.transaction_bytes,
            outbox_high=outbox.high_bytes,
            outbox_low=outbox.low_bytes,
            outbox_max=outbox.max_bytes,
            block_timeout=outbox.block_timeout,
            linger=outbox.linger,
            header_cache_bytes=config.cache.header_blocks_bytes,
            policies=tuple((policy.pattern.encode(), policy.slow_consumer) for policy in config.destination),
            queue=QueueSettings.of(config),
            queue_policies=Policies.of(config),
        )

    @staticmethod
    def listener(config: Config, index: int, name: str) -> ListenerSettings:
        listener = config.listener[index]
        beat = listener.heart_beat
        return ListenerSettings(
            name=name,
            hosts=frozenset(listener.hosts),
            connect_timeout=listener.connect_timeout,
            heart_beat=(round(beat.minimum * 1000), round(beat.wish * 1000)),
            slowest_beat=beat.maximum,
            send_factor=beat.send_factor,
            receive_factor=beat.receive_factor,
        )
