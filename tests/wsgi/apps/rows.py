"""Applications that do one thing each, right or wrong: "/NAME?KEY", or "/checked/NAME?KEY" under the validator.

What a row returns is closed; "/closed?KEY" tells how often, as soon as that has happened at all.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from wsgiref.validate import validator

PATIENCE = 5
TEXT = ("Content-Type", "text/plain")
OK = "200 OK"

rows = {}
closed = Counter()
change = threading.Condition()


def row(function):
    rows[function.__name__] = function
    return function


class Body:
    """An iterable that counts how often it is closed."""

    def __init__(self, environ, items, *, error=None):
        self._key = environ["QUERY_STRING"]
        self._items = items
        self._error = error

    def __iter__(self):
        return iter(self._items)

    def close(self):
        with change:
            closed[self._key] += 1
            change.notify_all()
        if self._error is not None:
            raise self._error


class Sized(Body):
    def __len__(self):
        return len(self._items)


def length(count):
    return ("Content-Length", str(count))


def fail():
    raise ArithmeticError("broken on purpose")


# -- what is allowed -----------------------------------------------------------------------------------------------


@row
def empty(environ, start_response):
    start_response(OK, [TEXT])
    return Body(environ, [])


@row
def one_item(environ, start_response):
    start_response(OK, [TEXT])
    return Sized(environ, [b"hello"])


@row
def items(environ, start_response):
    start_response(OK, [TEXT])
    return Body(environ, [b"", b"one ", b"", b"two", b""])


@row
def items_with_length(environ, start_response):
    start_response(OK, [TEXT, length(7)])
    return Body(environ, [b"one ", b"two"])


@row
def only_empty_items(environ, start_response):
    start_response(OK, [TEXT])
    return Body(environ, [b"", b"", b""])


@row
def starts_in_the_generator(environ, start_response):
    def generate():
        start_response(OK, [TEXT])
        yield b"one "
        yield b"two"

    return Body(environ, generate())


@row
def written(environ, start_response):
    write = start_response(OK, [TEXT])
    write(b"one ")
    write(b"")
    write(b"two")
    return Body(environ, [])


@row
def written_and_returned(environ, start_response):
    write = start_response(OK, [TEXT, length(13)])
    write(b"one ")
    write(b"two ")
    return Body(environ, [b"three"])


@row
def not_modified(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"a"')])
    return Body(environ, [])


@row
def no_content(environ, start_response):
    start_response("204 No Content", [])
    return Body(environ, [])


@row
def status_without_a_number_that_is_known(environ, start_response):
    start_response("299 Something of its own", [TEXT])
    return Body(environ, [b"own"])


# -- errors of the application's own -------------------------------------------------------------------------------


@row
def raises_at_once(environ, start_response):
    fail()


@row
def raises_after_start(environ, start_response):
    start_response(OK, [TEXT])
    fail()


@row
def raises_after_write(environ, start_response):
    start_response(OK, [TEXT])(b"part")
    fail()


@row
def raises_before_the_first_item(environ, start_response):
    def generate():
        fail()
        yield b""

    start_response(OK, [TEXT])
    return Body(environ, generate())


@row
def raises_after_an_empty_item(environ, start_response):
    def generate():
        yield b""
        fail()

    start_response(OK, [TEXT])
    return Body(environ, generate())


@row
def raises_after_the_first_item(environ, start_response):
    def generate():
        yield b"part"
        fail()

    start_response(OK, [TEXT])
    return Body(environ, generate())


@row
def raises_after_the_first_item_of_a_length(environ, start_response):
    def generate():
        yield b"part"
        fail()

    start_response(OK, [TEXT, length(10)])
    return Body(environ, generate())


@row
def raises_after_much(environ, start_response):
    def generate():
        for _ in range(32):
            yield bytes(65536)
        fail()

    start_response(OK, [TEXT])
    return Body(environ, generate())


@row
def raises_in_close(environ, start_response):
    start_response(OK, [TEXT, length(5)])
    return Body(environ, [b"whole"], error=ArithmeticError("broken on purpose"))


@row
def exits(environ, start_response):
    sys.exit("an application has no business to end the server")


@row
def raises_an_error_of_no_class_of_exceptions(environ, start_response):
    class Fatal(BaseException):
        pass

    raise Fatal("broken on purpose")


@row
def answers_an_error_itself(environ, start_response):
    try:
        start_response(OK, [TEXT, ("X-Wrong", "1")])
        fail()
    except ArithmeticError:
        start_response("500 Own Page", [TEXT], sys.exc_info())
        return Body(environ, [b"my own page"])


@row
def answers_an_error_itself_after_an_empty_item(environ, start_response):
    def generate():
        start_response(OK, [TEXT, ("X-Wrong", "1")])
        yield b""
        try:
            fail()
        except ArithmeticError:
            start_response("500 Own Page", [TEXT], sys.exc_info())
            yield b"my own page"

    return Body(environ, generate())


@row
def answers_an_error_after_the_head(environ, start_response):
    def generate():
        start_response(OK, [TEXT])
        yield b"part"
        try:
            fail()
        except ArithmeticError:
            start_response("500 Own Page", [TEXT], sys.exc_info())  # raises it again
            yield b"my own page"

    return Body(environ, generate())


# -- what is forbidden ---------------------------------------------------------------------------------------------


@row
def too_short(environ, start_response):
    start_response(OK, [TEXT, length(10)])
    return Body(environ, [b"four", b"4"])


@row
def too_short_in_one_item(environ, start_response):
    start_response(OK, [TEXT, length(10)])
    return Sized(environ, [b"four"])


@row
def nothing_of_its_length(environ, start_response):
    start_response(OK, [TEXT, length(10)])
    return Body(environ, [])


@row
def written_too_short(environ, start_response):
    start_response(OK, [TEXT, length(10)])(b"four")
    return Body(environ, [])


@row
def too_long_in_one_item(environ, start_response):
    start_response(OK, [TEXT, length(5)])
    return Sized(environ, [b"hello world"])


@row
def too_long(environ, start_response):
    start_response(OK, [TEXT, length(5)])
    return Body(environ, [b"hello", b" world"])


@row
def written_too_long(environ, start_response):
    start_response(OK, [TEXT, length(5)])(b"hello world")
    return Body(environ, [])


@row
def never_starts(environ, start_response):
    return Body(environ, [b"hello"])


@row
def never_starts_and_is_empty(environ, start_response):
    return Body(environ, [])


@row
def starts_after_its_first_item(environ, start_response):
    def generate():
        yield b"hello"
        start_response(OK, [TEXT])

    return Body(environ, generate())


@row
def starts_twice(environ, start_response):
    start_response(OK, [TEXT])
    start_response(OK, [TEXT])
    return Body(environ, [b"hello"])


@row
def text(environ, start_response):
    start_response(OK, [TEXT])
    return Body(environ, ["hello"])


@row
def text_as_a_list(environ, start_response):
    start_response(OK, [TEXT])
    return ["hello"]


@row
def text_after_bytes(environ, start_response):
    start_response(OK, [TEXT])
    return Body(environ, [b"hello", "world"])


@row
def written_text(environ, start_response):
    start_response(OK, [TEXT])("hello")
    return Body(environ, [])


@row
def nothing(environ, start_response):
    start_response(OK, [TEXT])


@row
def not_iterable(environ, start_response):
    start_response(OK, [TEXT])
    return 5


@row
def status_is_bytes(environ, start_response):
    start_response(b"200 OK", [TEXT])
    return Body(environ, [b"hello"])


@row
def status_is_a_number(environ, start_response):
    start_response(200, [TEXT])
    return Body(environ, [b"hello"])


@row
def status_is_a_word(environ, start_response):
    start_response("fine", [TEXT])
    return Body(environ, [b"hello"])


@row
def status_is_informational(environ, start_response):
    start_response("103 Early Hints", [])
    return Body(environ, [b"hello"])


@row
def header_is_bytes(environ, start_response):
    start_response(OK, [(b"Content-Type", b"text/plain")])
    return Body(environ, [b"hello"])


@row
def header_is_a_number(environ, start_response):
    start_response(OK, [("Content-Length", 5)])
    return Body(environ, [b"hello"])


def app(environ, start_response):
    name = environ["PATH_INFO"].removeprefix("/")
    if name == "closed":
        return tell_closed(environ, start_response)
    if name.startswith("checked/"):
        return validator(rows[name.removeprefix("checked/")])(environ, start_response)
    return rows[name](environ, start_response)


def tell_closed(environ, start_response):
    key = environ["QUERY_STRING"]
    with change:
        change.wait_for(lambda: closed[key], PATIENCE)
        answer = b"%d" % closed[key]
    start_response(OK, [TEXT])
    return [answer]
