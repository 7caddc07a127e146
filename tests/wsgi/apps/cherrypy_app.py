from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cherrypy

from tests.wsgi.apps.checked import checked
from tests.wsgi.apps.pieces import ask, pieces

STATIC = Path(__file__).parent / "static"


def as_json(value):
    cherrypy.response.headers["Content-Type"] = "application/json"
    return json.dumps(value).encode()


class Root:
    @cherrypy.expose
    def index(self):
        return "hello from cherrypy"

    @cherrypy.expose
    def form(self, name, colour):
        return as_json({"name": name, "colours": colour})

    @cherrypy.expose
    def upload(self, name, file):
        digest = hashlib.file_digest(file.file, "sha256").hexdigest()
        return as_json({"name": name, "filename": file.filename, "sha256": digest})

    @cherrypy.expose
    @cherrypy.config(**{"response.stream": True})
    def stream(self, key):
        cherrypy.response.headers["Content-Type"] = "text/plain"
        return pieces(key)

    @cherrypy.expose
    def ask(self, key):
        ask(key)
        return "asked"

    @cherrypy.expose
    @cherrypy.tools.sessions()
    def visits(self):
        cherrypy.session["visits"] = cherrypy.session.get("visits", 0) + 1
        return as_json(cherrypy.session["visits"])

    @cherrypy.expose
    def away(self):
        raise cherrypy.HTTPRedirect("/", 302)

    @cherrypy.expose
    def broken(self):
        raise ArithmeticError("broken on purpose")

    @cherrypy.expose
    def file(self):
        return cherrypy.lib.static.serve_file(__file__, content_type="text/x-python")


cherrypy.config.update({"environment": "embedded", "log.screen": False})
app = checked(
    cherrypy.Application(
        Root(), "", {"/static": {"tools.staticdir.on": True, "tools.staticdir.dir": str(STATIC)}}
    )
)
