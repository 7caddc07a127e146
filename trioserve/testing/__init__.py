"""Test applications through the real server: memory streams, an httpx transport, a pytest fixture.

Nothing is imported here, so that `import trioserve.testing` costs nothing: take names from the modules.
"""
