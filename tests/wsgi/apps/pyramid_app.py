from __future__ import annotations

import hashlib
from pathlib import Path

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.response import FileResponse, Response
from pyramid.session import JSONSerializer, SignedCookieSessionFactory

from tests.wsgi.apps.checked import checked
from tests.wsgi.apps.pieces import ask, pieces

STATIC = Path(__file__).parent / "static"


def index(request):
    return Response("hello from pyramid")


def form(request):
    return Response(json={"name": request.POST["name"], "colours": request.POST.getall("colour")})


def upload(request):
    file = request.POST["file"]
    digest = hashlib.file_digest(file.file, "sha256").hexdigest()
    return Response(json={"name": request.POST["name"], "filename": file.filename, "sha256": digest})


def stream(request):
    return Response(app_iter=pieces(request.params["key"]), content_type="text/plain")


def ask_for_piece(request):
    ask(request.params["key"])
    return Response("asked")


def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return Response(json=request.session["visits"])


def away(request):
    return HTTPFound("/")


def broken(request):
    raise ArithmeticError("broken on purpose")


def file(request):
    return FileResponse(__file__, request=request, content_type="text/x-python")


VIEWS = {
    "/": index,
    "/form": form,
    "/upload": upload,
    "/stream": stream,
    "/ask": ask_for_piece,
    "/visits": visits,
    "/away": away,
    "/broken": broken,
    "/file": file,
}


def build_app():
    sessions = SignedCookieSessionFactory("not a secret", serializer=JSONSerializer())
    with Configurator(session_factory=sessions) as config:
        for path, view in VIEWS.items():
            config.add_route(view.__name__, path)
            config.add_view(view, route_name=view.__name__)
        config.add_static_view("static", str(STATIC))
        return config.make_wsgi_app()


app = checked(build_app())
