"""`checked(application)` is that application under wsgiref's validator, unless the request has the field X-Bare.

Without the validator the server sees what the application returned, such as an instance of wsgi.file_wrapper.
"""

from __future__ import annotations

from wsgiref.validate import validator


def checked(application):
    validated = validator(application)

    def app(environ, start_response):
        chosen = application if "HTTP_X_BARE" in environ else validated
        return chosen(environ, start_response)

    return app
