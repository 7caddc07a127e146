from __future__ import annotations

import hashlib
from pathlib import Path

from flask import Flask, jsonify, redirect, request, send_file, session

from tests.wsgi.apps.checked import checked
from tests.wsgi.apps.pieces import ask, pieces

STATIC = Path(__file__).parent / "static"

flask = Flask(__name__, static_folder=STATIC)
flask.secret_key = "not a secret"


@flask.get("/")
def index():
    return "hello from flask"


@flask.post("/form")
def form():
    return jsonify(name=request.form["name"], colours=request.form.getlist("colour"))


@flask.post("/upload")
def upload():
    file = request.files["file"]
    digest = hashlib.file_digest(file.stream, "sha256").hexdigest()
    return jsonify(name=request.form["name"], filename=file.filename, sha256=digest)


@flask.get("/stream")
def stream():
    return flask.response_class(pieces(request.args["key"]), mimetype="text/plain")


@flask.post("/ask")
def ask_for_piece():
    ask(request.args["key"])
    return "asked"


@flask.get("/visits")
def visits():
    session["visits"] = session.get("visits", 0) + 1
    return jsonify(session["visits"])


@flask.get("/away")
def away():
    return redirect("/")


@flask.get("/broken")
def broken():
    raise ArithmeticError("broken on purpose")


@flask.get("/file")
def file():
    return send_file(__file__, mimetype="text/x-python", conditional=True)


class Input:
    """The validator refuses `read()` without a size, which Werkzeug calls where the input ends by itself."""

    def __init__(self, checked_input):
        self._input = checked_input

    def read(self, size=-1):
        return self._input.read(size) if size >= 0 else b"".join(iter(lambda: self._input.read(65536), b""))

    def readline(self, size=-1):
        return self._input.readline(size) if size >= 0 else self._input.readline()


def with_sizes(environ, start_response):
    return flask({**environ, "wsgi.input": Input(environ["wsgi.input"])}, start_response)


app = checked(with_sizes)
