"""What a client tells of its connection, to the `on_event` it was made with."""

from __future__ import annotations

from dataclasses import dataclass

from common.client.address import Address
from common.client.errors import BrokerError, ClientError

__all__ = ["ClientEvent", "ConnectFailing", "Connected", "Disconnected", "Ended", "Refused"]


@dataclass(frozen=True, slots=True)
class Connected:
    """The client is logged in. `resumed` counts the subscriptions that were made again, `resent` the SENDs."""

    address: Address
    session: str
    server: str
    version: str
    resumed: int = 0
    resent: int = 0


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone, and will be made again if the client is not closed.

    `unconfirmed` SENDs with a receipt are sent again then. `unknown` counts the SENDs without a receipt since the last
    frame from the broker that proves they were taken: whether they arrived, nobody knows.
    """

    address: Address
    session: str
    error: ClientError
    unconfirmed: int
    unknown: int


@dataclass(frozen=True, slots=True)
class ConnectFailing:
    """A round over all addresses failed, the last with `error`; the next is in `wait` seconds."""

    error: ClientError
    failures: int
    wait: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker has refused a SEND to `destination` that asked for a receipt. Its future raises the same `error`, for
    which nobody may wait."""

    destination: str
    error: BrokerError


@dataclass(frozen=True, slots=True)
class Ended:
    """The client has ended, for `error`, and connects no more; None: it was closed. The last event there is."""

    error: ClientError | None


ClientEvent = Connected | Disconnected | ConnectFailing | Refused | Ended
