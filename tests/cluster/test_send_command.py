"""`stampede send` as a process, against a real broker, and one made by hand for what a real one does not do."""

from __future__ import annotations

import itertools
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Connect
from tests.harness.broker import Broker
from tests.harness.command import ByHand, Running, run
from tests.harness.wire import Wire

_numbers = itertools.count()


@pytest.fixture
def queue() -> str:
    return f"/queue/send-command.{next(_numbers)}"


@pytest.fixture
def bodies(connect: Connect) -> Callable[[str, int], list[bytes]]:
    """Takes so many messages from a queue, all there are; the frames stay in `bodies.frames`."""

    def take(queue: str, count: int) -> list[bytes]:
        return [frame.body for frame in frames(connect(), queue, count)]

    return take


def frames(wire: Wire, queue: str, count: int) -> list:
    wire.subscribe(queue, id="take", ack="client", headers=[("prefetch-count", "0")])
    found = [wire.expect("MESSAGE") for _ in range(count)]
    wire.quiet()
    return found


def errors(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return done.stderr.decode().splitlines()


def test_the_body_is_the_argument_or_what_is_on_standard_input(
    broker: Broker, queue: str, bodies: Callable[..., list[bytes]]
) -> None:
    binary = b"a\nb\0\xff\n"
    for arguments, given in (
        (["gr\u00fc\u00df dich"], None),
        ([], binary),
        (["-"], b"dash"),
        ([], None),
        ([""], b"not read"),
        (["--", "-x"], None),
    ):
        done = run(broker.address, "send", queue, *arguments, given=given)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert bodies(queue, 6) == ["gr\u00fc\u00df dich".encode(), binary, b"dash", b"", b"", b"-x"]


def test_headers_and_flags_are_those_of_the_message_wherever_they_stand(
    broker: Broker, queue: str, connect: Connect
) -> None:
    done = run(
        broker.address,
        *("send", "-H", "a: b:c", queue, "--header", "e=f:", "--content-type", "text/plain", "body", "-H", "a:2"),
        *("--no-persistent", "-H", "idempotency-key:k"),
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert run(broker.address, "send", queue, "again", "-H", "idempotency-key:k").returncode == 0
    (frame,) = frames(connect(), queue, 1)
    assert frame.all("a") == [" b:c", "2"] and frame["e=f"] == "" and frame["persistent"] == "false"
    assert (frame["content-type"], frame["idempotency-key"], frame.body) == ("text/plain", "k", b"body")


def test_each_line_is_a_message_in_order_and_the_last_needs_no_line_feed(
    broker: Broker, queue: str, bodies: Callable[..., list[bytes]]
) -> None:
    lines = [b"%d" % number for number in range(3000)] + [b"", b"\r", b"x" * 300_000, b"", b"last"]
    done = run(broker.address, "send", queue, "--lines", given=b"\n".join(lines))
    assert (done.returncode, errors(done)) == (0, ["stampede: 3005 messages confirmed"])
    assert bodies(queue, 3005) == lines
    assert run(broker.address, "send", queue + "b", "-", "--lines", given=b"a\n\n").returncode == 0
    assert bodies(queue + "b", 2) == [b"a", b""]


def test_lines_of_a_file_and_none_at_all(
    broker: Broker, queue: str, bodies: Callable[..., list[bytes]], tmp_path: Path
) -> None:
    (tmp_path / "lines").write_bytes(b"1\n2\n")
    with (tmp_path / "lines").open("rb") as file:
        done = run(broker.address, "send", queue, "--lines", stdin=file)
    assert (done.returncode, errors(done)) == (0, ["stampede: 2 messages confirmed"])
    assert bodies(queue, 2) == [b"1", b"2"]
    done = run(broker.address, "send", queue, "--lines")
    assert (done.returncode, errors(done)) == (0, ["stampede: 0 messages confirmed"])


def test_lines_are_sent_as_they_come_and_ctrl_c_tells_how_far_it_came(
    broker: Broker, queue: str, connect: Connect
) -> None:
    wire = connect()
    wire.subscribe(queue)
    with Running(broker.address, "send", queue, "--lines", stdin=subprocess.PIPE) as sender:
        for line in (b"1", b"2"):
            sender.stdin.write(line + b"\n")
            assert wire.expect("MESSAGE").body == line
        sender.stdin.write(b"half of a line")
        done = sender.stop(signal.SIGINT)
    assert done.returncode == 130
    (summary,) = errors(done)
    # Its RECEIPT and the signal may be on their way together.
    assert summary in ("stampede: 2 messages confirmed", "stampede: 1 message confirmed, 1 more sent and not confirmed")
    wire.quiet()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_while_it_waits_for_the_broker(number: signal.Signals, code: int) -> None:
    with ByHand.open() as far, Running(far.address, "send", "/queue/a", "body") as sender:
        far.accept()
        assert far.read().startswith("SEND\n")
        done = sender.stop(number)
    assert (done.returncode, done.stderr) == (code, b"")


def test_the_first_line_that_is_refused_ends_it(broker: Broker, queue: str, bodies: Callable[..., list[bytes]]) -> None:
    # More than the broker takes in one message.
    given = b"1\n2\n3\n" + bytes(17 << 20) + b"\n" + b"after\n" * 50
    done = run(broker.address, "send", queue, "--lines", given=given)
    assert done.returncode == 1
    summary, refusal = errors(done)
    assert summary.startswith("stampede: 3 messages confirmed, ")
    assert refusal.startswith("stampede: line 4: body too large: ") and refusal.endswith("(body-too-large)")
    assert bodies(queue, 3) == [b"1", b"2", b"3"]


def test_the_body_is_sent_count_times(broker: Broker, queue: str, bodies: Callable[..., list[bytes]]) -> None:
    done = run(broker.address, "send", queue, "again", "--count", "2500")
    assert (done.returncode, errors(done)) == (0, ["stampede: 2500 messages confirmed"])
    assert bodies(queue, 2500) == [b"again"] * 2500


def test_nobody_there_to_take_it_is_told(broker: Broker) -> None:
    done = run(broker.address, "send", "/topic/nobody.listens", "x")
    assert (done.returncode, errors(done)) == (0, ["stampede: /topic/nobody.listens: nobody was there to take it"])
    done = run(broker.address, "send", "/topic/nobody.listens", "x", "--count", "3")
    assert errors(done) == ["stampede: 3 messages confirmed, 3 of them routed to nobody"]


@pytest.mark.parametrize("kind", ["queue", "topic", "temp-queue", "temp-topic"])
def test_a_topic_that_is_called_like_something_else_is_worth_a_warning(broker: Broker, kind: str) -> None:
    warning = (
        f"stampede: warning: without a leading slash '{kind}/x' is a topic of that name; the {kind} 'x' is '/{kind}/x'"
    )
    done = run(broker.address, "send", f"{kind}/x", "body")
    assert done.returncode == 0
    assert errors(done)[0] == warning
    done = run(broker.address, "subscribe", f"{kind}/x", "--timeout", "0.1")
    assert errors(done)[0] == warning
    for other in (f"/topic/{kind}/x", kind, f"my/{kind}/x"):
        assert not any("warning" in line for line in errors(run(broker.address, "send", other, "body")))


def test_a_reply_is_written_to_standard_output(broker: Broker, queue: str, connect: Connect) -> None:
    wire = connect()
    wire.subscribe(queue)
    for options, written in (([], b"pong\n"), (["--format", "raw"], b"pong")):
        with Running(broker.address, "send", queue, "ping", "--request", *options) as asker:
            asked = wire.expect("MESSAGE")
            assert asked.body == b"ping"
            wire.publish(asked["reply-to"], b"pong", [("correlation-id", asked["correlation-id"])])
            done = asker.end()
        assert (done.returncode, done.stdout, done.stderr) == (0, written, b"")
    done = run(broker.address, "send", queue, "ping", "--request", "--timeout", "0.2")
    assert (done.returncode, errors(done)) == (4, ["stampede: no reply within 0.2 s"])


def test_without_receipts_a_refusal_and_a_loss_are_told_all_the_same(
    broker: Broker, queue: str, bodies: Callable[..., list[bytes]]
) -> None:
    done = run(broker.address, "send", queue, "--no-receipt", "--lines", given=b"1\n2\n")
    assert (done.returncode, errors(done)) == (0, ["stampede: 2 messages sent, without receipts"])
    assert bodies(queue, 2) == [b"1", b"2"]
    done = run(broker.address, "send", queue, "x", "--no-receipt", "-H", "priority:high")
    assert done.returncode == 1 and "bad priority header" in errors(done)[-1]
    with ByHand.open() as far, Running(far.address, "send", "/queue/a", "body", "--no-receipt") as sender:
        far.accept()
        sent = far.read()
        assert sent.startswith("SEND\n") and "receipt" not in sent and "idempotency-key" not in sent
        far.drop()
        done = sender.end()
    assert done.returncode == 1
    (lost,) = errors(done)
    assert lost.startswith("stampede: of what was sent without a receipt, up to 1 message may be lost: ")
    assert f"127.0.0.1:{far.address[1]}" in lost


def test_what_was_not_confirmed_is_sent_again_under_the_same_key() -> None:
    with ByHand.open() as far, Running(far.address, "send", "/queue/a", "body") as sender:
        far.accept()
        first = far.read()
        far.drop()
        far.accept()
        second = far.read()
        assert second == first and "idempotency-key:" in first
        far.confirm(first)
        assert far.read().startswith("DISCONNECT\n")
        far.drop()
        done = sender.end()
    lost, again = errors(done)
    assert done.returncode == 0
    assert lost.startswith("stampede: the connection is lost, connecting again: ")
    assert again == f"stampede: connected again, to stomp://127.0.0.1:{far.address[1]}"


def test_a_broker_that_does_not_answer_is_given_up() -> None:
    with ByHand.open() as far, Running(far.address, "send", "/queue/a", "body", "--timeout", "0.3") as sender:
        far.accept()
        far.read()
        done = sender.end()
    assert (done.returncode, errors(done)) == (4, ["stampede: no answer from the broker within 0.3 s"])


def test_time_counts_from_the_last_answer_and_not_while_there_is_nothing_to_answer() -> None:
    with ByHand.open() as far:
        arguments = ["send", "/queue/a", "--lines", "--timeout", "0.5"]
        with Running(far.address, *arguments, stdin=subprocess.PIPE) as sender:
            far.accept()
            for line in (b"1", b"2"):
                sender.stdin.write(line + b"\n")
                far.confirm(far.read())
                # Twice the time without a line, and without a complaint.
                assert not select.select([sender.stderr], [], [], 1.0)[0]
            sender.stdin.close()
            sender.process.stdin = None
            far.confirm(far.read())
            done = sender.end()
    assert (done.returncode, errors(done)) == (0, ["stampede: 2 messages confirmed"])


def test_what_goes_wrong_is_one_line(broker: Broker) -> None:
    with ByHand.open() as nobody:
        refused = nobody.address
    done = run(refused, "send", "/queue/a", "x")
    reason = f"connection refused by 127.0.0.1:{refused[1]}"
    assert (done.returncode, errors(done)) == (1, [f"stampede: could not connect: {reason}"])
    done = run(broker.address, "send", "/queue/a", "x", "-H", "priority:high")
    assert done.returncode == 1
    assert errors(done) == [
        "stampede: bad priority header: priority was 'high'; it takes a whole number from 0 to 9 (bad-value)"
    ]
    with ByHand.open() as far, Running(far.address, "send", "/queue/a", "x") as sender:
        far.accept()
        far.read()
        far.write("ERROR", [("message", "no\x1b[31m")], b"because\nof this")
        done = sender.end()
    assert (done.returncode, errors(done)) == (1, [r"stampede: no\x1b[31m: because of this"])


def test_the_passcode_comes_from_a_file_the_url_or_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "passcode"
    path.write_text("from-file\n")
    in_url = "stomp://me:from-url@127.0.0.1:{}"
    plain = "stomp://me@127.0.0.1:{}"
    for url, options, passcode in (
        (in_url, ["--passcode-file", str(path), "--login", "you"], "from-file"),
        (in_url, [], "from-url"),
        (plain, ["--client-id", "me-1"], "from-environment"),
    ):
        with ByHand.open() as far:
            url = url.format(far.address[1])
            environment = {"STAMPEDE_PASSCODE": "from-environment"}
            arguments = ["send", "/queue/a", "x", "--url", url, *options]
            with Running(None, *arguments, environment=environment) as sender:
                connect = far.accept().split("\n")
                assert f"passcode:{passcode}" in connect
                assert f"login:{'you' if '--login' in options else 'me'}" in connect
                assert ("client-id:me-1" in connect) == ("--client-id" in options)
                far.read()
                far.write("ERROR", [("message", "go away")])
                done = sender.end()
        assert (done.returncode, errors(done)) == (1, ["stampede: go away"])


def test_closed_streams_and_an_input_that_cannot_be_read(broker: Broker, queue: str) -> None:
    done = run(broker.address, "send", queue, shell="<&-")
    assert (done.returncode, errors(done)) == (2, ["stampede: standard input is closed: give BODY"])
    assert run(broker.address, "send", queue, "body", shell="<&- >&- 2>&-").returncode == 0
    assert run(broker.address, "send", queue, shell="<&- 2>&-").returncode == 2
    done = run(broker.address, "send", queue, "--lines", shell="0>/dev/null")
    assert (done.returncode, errors(done)[-1]) == (1, "stampede: cannot read standard input: Bad file descriptor")


def test_ctrl_c_while_the_body_is_read(broker: Broker, queue: str) -> None:
    with Running(broker.address, "send", queue, stdin=subprocess.PIPE) as sender:
        # More than a pipe holds, so it has begun to read when this returns.
        sender.stdin.write(bytes(1 << 20))
        done = sender.stop(signal.SIGINT)
    assert (done.returncode, done.stderr) == (130, b"")
