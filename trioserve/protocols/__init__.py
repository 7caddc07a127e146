"""Floor 1: sans-I/O machines that turn bytes into events and decisions into bytes.

Nothing here imports trio, socket, ssl or threading, and nothing reads a clock: time is an argument. A machine
never waits and never writes; whoever owns the transport feeds it and carries what it returns.
"""
