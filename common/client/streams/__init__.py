"""The transports of the client: one interface over TCP, TLS, Unix sockets, WebSocket and memory."""

from common.client.streams.interface import HIGH_MARK, LOW_MARK, Stream, StreamEvents
from common.client.streams.opening import open_stream
from common.client.streams.pipes import pipe

__all__ = ["HIGH_MARK", "LOW_MARK", "Stream", "StreamEvents", "open_stream", "pipe"]
