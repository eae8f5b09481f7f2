"""Mutated and random frames on the port of a real broker: it answers or closes, and nobody else notices.

Seeded, so that a failure comes again: the seed is the test's parameter.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest

from tests.conftest import StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import VERSIONS, Wire, connect_on

ROUNDS = 80
STEADY = "/topic/steady"

FRAMES = [
    b"SEND\ndestination:/topic/fuzz\n\nhello\0",
    b"SEND\ndestination:/topic/fuzz\ncontent-length:5\n\nh\0l\0o\0",
    b"SEND\r\ndestination:/topic/fuzz.a\r\nreceipt:a\\cb\r\nx:\\n\\c\\\\\r\n\r\nx\n\ny\0",
    b"SEND\ndestination:/topic/fuzz\ntransaction:t\nreceipt:r\n\nz\0",
    b"SEND\ndestination:/queue/fuzz\n\nz\0",
    b"SUBSCRIBE\nid:0\ndestination:/topic/fuzz\n\n\0",
    b"SUBSCRIBE\nid:1\ndestination:/topic/fuzz\nack:client\nreceipt:s\n\n\0",
    b"SUBSCRIBE\nid:a\rb\ndestination:/topic/fuzz.*\nack:client-individual\n\n\0",
    b"SUBSCRIBE\nid:ab\ndestination:/topic/fuzz.*\n\n\0",
    b"SUBSCRIBE\nid:2\ndestination:#.#.*.#\n\n\0",
    b"UNSUBSCRIBE\nid:0\n\n\0",
    b"UNSUBSCRIBE\nid:ab\nreceipt:u\n\n\0",
    b"ACK\nid:1-0-0\nmessage-id:1\nsubscription:1\n\n\0",
    b"NACK\nid:x\ntransaction:t\n\n\0",
    b"BEGIN\ntransaction:t\nreceipt:b\n\n\0",
    b"COMMIT\ntransaction:t\n\n\0",
    b"ABORT\ntransaction:t\n\n\0",
    b"DISCONNECT\nreceipt:d\n\n\0",
    b"CONNECT\naccept-version:1.0,1.1,1.2\nhost:h\nheart-beat:0,100000\n\n\0",
    b"STOMP\naccept-version:1.1\nhost:h\nheart-beat:99999999999999999999999,1\n\n\0",
    b"\n\r\n\n",
    b"MESSAGE\nsubscription:0\nmessage-id:1\n\n\0",
    b"SEND\r\r\ndestination:/topic/fuzz\n\n\0",
    b"SEND\r\r\n\n\0",
]
PIECES = [
    *(b"\0", b"\n", b"\r", b"\r\n", b"\n\n", b":", b"\\", b"\\t", b"\\r", b" ", b"\xff", b"\xed\xa0\x80", "é".encode()),
    *(b"receipt:q\n", b"content-length:3\n", b"content-length:99999999\n", b"content-length:-1\n", b"id:0\n"),
    *(b"destination:/topic/fuzz\n", b"destination:" + b"x" * 2000 + b"\n", b"transaction:t\n", b"ack:client\n"),
    *(b"x" * 40, b"h:" + b"y" * 20_000 + b"\n", b"a:b\n" * 200, b"SEND\n", b"SEND"),
]


def hostile(random: Random) -> bytes:
    """A few frames, most of them harmed somewhere."""
    frames = []
    for _ in range(random.randint(1, 8)):
        frame = bytearray(random.choice(FRAMES))
        for _ in range(random.choice([0, 0, 1, 1, 2, 5])):
            place = random.randint(0, len(frame))
            end = place + random.choice([0, 0, 1, 1, 4])
            frame[place:end] = random.choice([b"", random.choice(PIECES), random.randbytes(random.randint(1, 4))])
        frames.append(bytes(frame))
    if random.random() < 0.1:
        frames.append(random.randbytes(random.randint(1, 3000)))
    return b"".join(frames)


def attack(broker: Broker, random: Random) -> None:
    """One client: log in or not, send what it has in any pieces, read every answer, which must be whole frames."""
    with Wire(broker.address) as wire:
        if random.random() < 0.8:
            wire.connect(random.choice(VERSIONS))
        else:
            # Which version this client will have is not known; that of 1.0 reads the answers of all.
            wire.version = "1.0"
        data = hostile(random)
        while data:
            size = random.choice([1, 7, 50, 1 << 20])
            wire.send(data[:size])
            data = data[size:]
        if random.random() < 0.2:
            return
        with suppress(OSError):  # refused and closed already; what it said can still be read
            wire.shut_write()
        wire.read_rest()


@pytest.mark.parametrize("seed", range(3))
def test_hostile_clients_cost_a_steady_one_nothing(start_broker: StartBroker, seed: int) -> None:
    random = Random(seed)
    broker: Broker = start_broker(workers=2)
    readers = [connect_on(broker, slot) for slot in range(2)]
    writer = connect_on(broker, 0)
    with readers[0], readers[1], writer:
        for reader in readers:
            reader.subscribe(STEADY)
        for number in range(ROUNDS):
            attack(broker, random)
            writer.publish(STEADY, b"%d" % number)
        writer.quiet()
        for reader in readers:
            assert [frame.body for frame in reader.read_many(ROUNDS)] == [b"%d" % number for number in range(ROUNDS)]
            reader.quiet()
    broker.check_log()
    assert not broker.events("worker.exited")
    assert broker.returncode is None
