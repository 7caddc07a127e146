"""Tells its environ as JSON, under the validator."""

from __future__ import annotations

import json

from tests.wsgi.apps.checked import checked


def tell(environ, start_response):
    told = {name: value for name, value in environ.items() if isinstance(value, str | bool)}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]


app = checked(tell)
