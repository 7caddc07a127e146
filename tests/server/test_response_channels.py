"""The same contract for the channel of each version of HTTP."""

from __future__ import annotations

import pytest

from trioserve.testing.channel_checks import (
    RESPONSE_CHANNEL_CHECKS,
    RESPONSE_CHANNEL_TIME_CHECKS,
    check_response_channel,
)
from trioserve.testing.channel_clients import Http1ExchangeClient, Http2ExchangeClient


def names(check):
    return check.__name__


@pytest.mark.parametrize("open_client", [Http1ExchangeClient, Http2ExchangeClient])
class TestContract:
    @pytest.mark.parametrize("check", RESPONSE_CHANNEL_CHECKS, ids=names)
    async def test_at_any_time(self, check, open_client, error_log):
        await check(open_client)
        assert not [line for line in error_log() if "bug in trioserve" in line]

    @pytest.mark.parametrize("check", RESPONSE_CHANNEL_TIME_CHECKS, ids=names)
    async def test_with_a_clock_that_jumps(self, check, open_client, error_log, autojump_clock):
        await check(open_client)
        assert not [line for line in error_log() if "bug in trioserve" in line]


async def test_a_channel_that_breaks_the_contract_is_found():
    class Deaf(Http2ExchangeClient):
        http_version = "3"

    with pytest.raises(AssertionError):
        await check_response_channel(Deaf)
