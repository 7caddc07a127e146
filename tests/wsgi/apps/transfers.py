"""Large bodies in both directions, made and read piece by piece, under the validator."""

from __future__ import annotations

import time
import zlib
from urllib.parse import parse_qs
from wsgiref.validate import validator

PIECE = 64 * 1024
PAUSE = 0.001
PIECES_BETWEEN_PAUSES = 16


def application(environ, start_response):
    size = int(parse_qs(environ["QUERY_STRING"]).get("size", ["0"])[0])
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/upload":
        return [read_slowly(environ["wsgi.input"])]
    return (bytes(PIECE) for _ in range(size // PIECE))


def read_slowly(source):
    size = checksum = number = 0
    while piece := source.read(PIECE):
        size += len(piece)
        checksum = zlib.crc32(piece, checksum)
        number += 1
        if number % PIECES_BETWEEN_PAUSES == 0:
            time.sleep(PAUSE)
    return b"%d %d" % (size, checksum)


app = validator(application)
