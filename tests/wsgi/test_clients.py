from __future__ import annotations

import re

import pytest

from tests.e2e.servers import ROOT
from tests.server_process import ServerProcess
from tests.wsgi.outcomes import PROTOCOLS, Address, Outcome, fetch

# What comes of a response that is allowed: status and body.
ALLOWED = {
    "empty": (200, b""),
    "one_item": (200, b"hello"),
    "items": (200, b"one two"),
    "items_with_length": (200, b"one two"),
    "only_empty_items": (200, b""),
    "starts_in_the_generator": (200, b"one two"),
    "written": (200, b"one two"),
    "written_and_returned": (200, b"one two three"),
    "not_modified": (304, b""),
    "no_content": (204, b""),
    "status_without_a_number_that_is_known": (299, b"own"),
    "answers_an_error_itself": (500, b"my own page"),
    "answers_an_error_itself_after_an_empty_item": (500, b"my own page"),
}
# Nothing had been sent when the application failed, or broke the rules. Those of the first kind are its own business.
ANSWERED_500 = (
    *("raises_at_once", "raises_after_start", "raises_before_the_first_item", "raises_after_an_empty_item"),
    *("exits", "raises_an_error_of_no_class_of_exceptions"),
    *("never_starts", "never_starts_and_is_empty", "starts_after_its_first_item", "starts_twice"),
    *("nothing_of_its_length", "too_short_in_one_item", "too_long_in_one_item", "written_too_long"),
    *("text", "text_as_a_list", "written_text", "nothing", "not_iterable"),
    *("status_is_bytes", "status_is_a_number", "status_is_a_word", "status_is_informational"),
    *("header_is_bytes", "header_is_a_number"),
)
# Something had been sent, or may have been: the client must be able to tell that it is not all.
ABORTED = {
    "raises_after_write": b"part",
    "raises_after_the_first_item": b"part",
    "raises_after_the_first_item_of_a_length": b"part",
    "raises_after_much": bytes(65536) * 32,
    "answers_an_error_after_the_head": b"part",
    "too_short": b"four4",
    "written_too_short": b"four",
    "text_after_bytes": b"hello",
}
WITH_A_BODY_TO_CLOSE = sorted(
    {*ALLOWED, *ANSWERED_500, *ABORTED, "raises_in_close"}
    - {"raises_at_once", "raises_after_start", "raises_after_write", "exits", "nothing", "not_iterable"}
    - {"raises_an_error_of_no_class_of_exceptions", "starts_twice", "text_as_a_list", "written_too_long"}
    - {"written_text", "status_is_bytes", "status_is_a_number", "status_is_a_word", "header_is_bytes"}
    - {"status_is_informational", "header_is_a_number"}
)


@pytest.fixture(scope="module")
def address():
    arguments = ("tests.wsgi.apps.rows:app", "--bind=127.0.0.1:0", "--logging-access=off", "--wsgi-threads=4")
    with ServerProcess(ROOT, *arguments) as process:
        yield Address.of(process.wait_until_serving())
        assert process.stop() == 0, process.errors
        # These are what the validator says.
        assert not re.search(
            r"validate.py.*\n.*\n *AssertionError|WSGIWarning|garbage collected", process.errors
        )
        assert "bug" not in process.errors


@pytest.fixture(params=PROTOCOLS)
def protocol(request):
    return request.param


def is_500(outcome: Outcome) -> bool:
    return (outcome.status, outcome.body, outcome.complete) == (500, b"Internal Server Error\n", True)


@pytest.mark.parametrize("checked", ["", "checked/"])
@pytest.mark.parametrize("name", ALLOWED)
async def test_what_is_allowed_is_complete(address, protocol, name, checked):
    outcome = await fetch(address, protocol, f"/{checked}{name}")
    assert outcome.complete
    assert (outcome.status, outcome.body) == ALLOWED[name]
    assert "x-wrong" not in outcome.headers


@pytest.mark.parametrize("name", ANSWERED_500)
async def test_error_before_the_head_is_answered_500(address, protocol, name):
    assert is_500(await fetch(address, protocol, f"/{name}"))


@pytest.mark.parametrize("checked", ["", "checked/"])
@pytest.mark.parametrize("name", [name for name in ABORTED if name.startswith(("raises", "answers"))])
async def test_error_after_the_head_never_looks_complete(address, protocol, name, checked):
    outcome = await fetch(address, protocol, f"/{checked}{name}")
    assert not outcome.complete
    assert ABORTED[name].startswith(outcome.body)


@pytest.mark.parametrize("name", [name for name in ABORTED if not name.startswith(("raises", "answers"))])
async def test_response_that_breaks_its_promise_never_looks_complete(address, protocol, name):
    outcome = await fetch(address, protocol, f"/{name}")
    assert is_500(outcome) or (not outcome.complete and ABORTED[name].startswith(outcome.body))


async def test_error_after_the_body_changes_nothing_of_it(address, protocol):
    outcome = await fetch(address, protocol, "/raises_in_close")
    assert (outcome.status, outcome.body) == (200, b"whole")


async def test_what_exceeds_the_length_is_not_sent(address, protocol):
    outcome = await fetch(address, protocol, "/too_long")
    assert is_500(outcome) or (outcome.status == 200 and b"hello".startswith(outcome.body))


@pytest.mark.parametrize("name", WITH_A_BODY_TO_CLOSE)
async def test_what_was_returned_is_closed_once(address, protocol, name):
    key = f"{name}-{protocol}"
    await fetch(address, protocol, f"/{name}?{key}")
    assert (await fetch(address, "HTTP/1.1", f"/closed?{key}")).body == b"1"
    # Whatever would close it again has had its turn.
    await fetch(address, protocol, "/empty")
    assert (await fetch(address, "HTTP/1.1", f"/closed?{key}")).body == b"1"


@pytest.mark.parametrize("name", ["one_item", "items", "items_with_length", "written", "raises_after_much"])
async def test_head_has_no_body(address, protocol, name):
    outcome = await fetch(address, protocol, f"/checked/{name}", method="HEAD")
    assert (outcome.status, outcome.body) == (200, b"")


async def test_head_keeps_the_length(address, protocol):
    outcome = await fetch(address, protocol, "/checked/items_with_length", method="HEAD")
    assert outcome.headers["content-length"] == "7"


async def test_length_of_a_single_item_is_known(address, protocol):
    outcome = await fetch(address, protocol, "/one_item")
    assert outcome.headers["content-length"] == "5"


async def test_streamed_body_is_chunked_on_http_1_1_alone(address, protocol):
    outcome = await fetch(address, protocol, "/items")
    coding = outcome.headers.get("transfer-encoding")
    assert coding == (
        "chunked" if protocol == "HTTP/1.1" and "content-length" not in outcome.headers else None
    )
