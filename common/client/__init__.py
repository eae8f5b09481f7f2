"""The STOMP client: `Client` reconnects and resumes, `connect_sync` is for scripts, `Peer` is frames in, frames out."""

from common.client import frames
from common.client.address import Address, Target, parse_target
from common.client.backoff import Backoff
from common.client.client import Client
from common.client.errors import (
    AddressError,
    AlreadySettled,
    BrokerError,
    BufferOverrun,
    ClientClosed,
    ClientError,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    OutcomeUnknown,
    ProtocolFault,
    StaleDelivery,
    TransactionLost,
)
from common.client.events import ClientEvent, Connected, ConnectFailing, Disconnected, Ended, Refused
from common.client.message import Message
from common.client.peer import Peer
from common.client.receipt import Receipt
from common.client.subscription import Subscription
from common.client.sync import SyncClient, SyncMessage, SyncSubscription, SyncTransaction, connect_sync
from common.client.transaction import Transaction

__all__ = [
    "Address",
    "AddressError",
    "AlreadySettled",
    "Backoff",
    "BrokerError",
    "BufferOverrun",
    "Client",
    "ClientClosed",
    "ClientError",
    "ClientEvent",
    "ConnectFailed",
    "ConnectFailing",
    "Connected",
    "ConnectionClosed",
    "ConnectionLost",
    "Disconnected",
    "Ended",
    "Message",
    "OutcomeUnknown",
    "Peer",
    "ProtocolFault",
    "Receipt",
    "Refused",
    "StaleDelivery",
    "Subscription",
    "SyncClient",
    "SyncMessage",
    "SyncSubscription",
    "SyncTransaction",
    "Target",
    "Transaction",
    "TransactionLost",
    "connect_sync",
    "frames",
    "parse_target",
]
