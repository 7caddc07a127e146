"""A Django project in one file, with the admin pages and a database in the directory DJANGO_DIRECTORY."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import django
from django.conf import settings

HERE = Path(__file__).parent
PREFIX = "django.contrib."
MIDDLEWARE = (
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
)
CONTEXT_PROCESSORS = (
    "django.template.context_processors.request",
    "django.contrib.auth.context_processors.auth",
    "django.contrib.messages.context_processors.messages",
)
DATABASE = Path(os.environ["DJANGO_DIRECTORY"]) / "database.sqlite"

settings.configure(
    SECRET_KEY="not a secret, and long enough for the one who checks",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        PREFIX + name for name in ("admin", "auth", "contenttypes", "sessions", "messages", "staticfiles")
    ],
    MIDDLEWARE=MIDDLEWARE,
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {"context_processors": CONTEXT_PROCESSORS},
        }
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}},
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    STATIC_URL="/static/",
    STATICFILES_DIRS=[HERE / "static"],
    USE_TZ=True,
)
django.setup()

from django.contrib import admin  # noqa: E402 - Django imports need its settings
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.staticfiles.handlers import StaticFilesHandler  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import (  # noqa: E402
    FileResponse,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402

from tests.wsgi.apps.checked import checked  # noqa: E402
from tests.wsgi.apps.pieces import ask, pieces  # noqa: E402


def index(request):
    return HttpResponse("hello from django")


@csrf_exempt
def form(request):
    return JsonResponse({"name": request.POST["name"], "colours": request.POST.getlist("colour")})


@csrf_exempt
def upload(request):
    file = request.FILES["file"]
    digest = hashlib.file_digest(file.file, "sha256").hexdigest()
    return JsonResponse({"name": request.POST["name"], "filename": file.name, "sha256": digest})


def stream(request):
    return StreamingHttpResponse(pieces(request.GET["key"]), content_type="text/plain")


@csrf_exempt
def ask_for_piece(request):
    ask(request.GET["key"])
    return HttpResponse("asked")


def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse(request.session["visits"], safe=False)


def away(request):
    return HttpResponseRedirect("/")


def broken(request):
    raise ArithmeticError("broken on purpose")


def file(request):
    return FileResponse(open(__file__, "rb"), content_type="text/x-python")


urlpatterns = [
    path("", index),
    path("form", form),
    path("upload", upload),
    path("stream", stream),
    path("ask", ask_for_piece),
    path("visits", visits),
    path("away", away),
    path("broken", broken),
    path("file", file),
    path("admin/", admin.site.urls),
]

call_command("migrate", verbosity=0)
User.objects.create_superuser("admin", password="admin")
app = checked(StaticFilesHandler(get_wsgi_application()))
