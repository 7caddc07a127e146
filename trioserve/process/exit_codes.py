"""Exit codes of the command and of worker processes. Nothing is imported here, so that whoever starts early can."""

STOPPED, CRASHED, UNUSABLE, APPLICATION_FAILED = 0, 1, 2, 3
"""Stopped as it was told to · a crash, or a crash loop · usage, configuration or address · the application failed."""
