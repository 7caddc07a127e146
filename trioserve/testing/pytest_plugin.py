"""The pytest plugin that the package registers.

Every pytest run in an environment with trioserve installed imports this module, so it imports pytest and nothing
else: neither trio nor the server, which would start before coverage does. Fixtures import what they need when used.
"""

from __future__ import annotations
