"""A worker for tests of the front: speaks the control protocol and answers `slot incarnation pid` on its listeners.

Misbehaves as `FAKE_WORKER` says: `die` before Ready, `cannot-start`, `mute` (never ready), `deaf` (pings are not
answered; and SIGABRT is ignored), `noise` (writes rubbish on the control channel once ready), `stay` (ignores Drain),
`orphan` (ignores the end of the front).
`FAKE_WORKER_SLOT` limits that to one slot, and `FAKE_WORKER_UNTIL` to incarnations up to that one.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import selectors
import signal
import socket
import sys

from common.messages import (
    Bound,
    CannotStart,
    ControlDecoder,
    Drain,
    Drained,
    Ping,
    Pong,
    Ready,
    Roster,
    Start,
    encode,
)


def wrong(start: Start) -> str:
    """How this life of this slot is to misbehave."""
    if os.environ.get("FAKE_WORKER_SLOT", str(start.slot)) != str(start.slot):
        return ""
    if start.incarnation > int(os.environ.get("FAKE_WORKER_UNTIL", "1000000")):
        return ""
    return os.environ.get("FAKE_WORKER", "")


def main() -> int:
    faulthandler.enable()
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int, required=True)
    control = socket.socket(fileno=parser.parse_args().control_fd)
    decoder = ControlDecoder()
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    start: Start | None = None
    mode = ""
    is_ready = False
    while True:
        for key, _ in selector.select():
            if key.fileobj is not control:
                assert isinstance(key.fileobj, socket.socket) and start is not None
                try:
                    client, _ = key.fileobj.accept()
                except BlockingIOError:
                    continue  # A sibling that shares the socket was faster.
                with client:
                    client.sendall(f"{start.slot} {start.incarnation} {os.getpid()}\n".encode())
                continue
            try:
                data = control.recv(65536)
            except ConnectionResetError:
                data = b""  # The front died with an answer unread.
            if not data:
                sys.stderr.write("control channel closed\n")
                if mode == "orphan":
                    signal.alarm(100)  # Nobody may be left to kill it.
                    signal.pause()
                return 0
            for message in decoder.feed(data):
                match message:
                    case Start():
                        start = message
                        mode = wrong(start)
                        if mode == "deaf":
                            faulthandler.disable()
                            signal.signal(signal.SIGABRT, signal.SIG_IGN)
                        if mode == "die":
                            return 7
                        if mode == "cannot-start":
                            control.sendall(encode(CannotStart("the moon is in the way")))
                            return 3
                        path = os.path.join(start.runtime_dir, f"{start.slot}-{start.incarnation}")
                        endpoint = socket.socket(socket.AF_UNIX)
                        endpoint.bind(path)
                        control.sendall(encode(Bound(f"ipc://{path}")))
                    case Roster(members) if start is not None and not is_ready:
                        if mode == "mute" or start.slot not in [member[0] for member in members]:
                            continue
                        is_ready = True
                        sys.stdout.write("a careless print\n")
                        sys.stdout.flush()
                        for descriptor, _, _ in start.listeners:
                            selector.register(socket.socket(fileno=descriptor), selectors.EVENT_READ)
                        control.sendall(encode(Ready()))
                        if mode == "noise":
                            control.sendall(b"\xc1\xc1\xc1")
                    case Ping(number) if mode != "deaf":
                        control.sendall(encode(Pong(number, {"connections": number})))
                    case Drain() if mode != "stay":
                        control.sendall(encode(Drained()))
                        return 0


if __name__ == "__main__":
    sys.exit(main())
