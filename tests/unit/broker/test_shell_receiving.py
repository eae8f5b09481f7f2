"""What `stampede subscribe` acknowledges when it is stopped."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from broker.shell.printing import Output
from broker.shell.receiving import _Reader


@pytest.mark.parametrize("is_taken", [True, False])
def test_a_signal_may_be_sooner_than_the_news_that_all_was_read(is_taken: bool) -> None:
    acknowledged: list[bool] = []

    class Stopped:
        async def taken(self) -> None:
            raise asyncio.CancelledError

        @property
        def is_taken(self) -> bool:
            return is_taken

    class Message:
        async def ack(self) -> None:
            acknowledged.append(True)

    reader = _Reader.__new__(_Reader)
    reader._output = cast(Output, Stopped())
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(reader._acknowledge(cast(Any, Message())))
    assert acknowledged == [True] * is_taken
