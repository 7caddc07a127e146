"""Floor 2: the application's side of the server.

Turns requests into ASGI scopes and messages, and an application's messages into calls on a `ResponseChannel`. It
may wait on Trio, but never touches a transport: that is the server floor's.
"""
