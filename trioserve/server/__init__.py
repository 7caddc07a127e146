"""Floor 3: Trio I/O. The only floor that awaits a transport.

`server.py` is the place to start reading: `serve()` opens listeners, accepts connections and ends them again.
`connection.py` takes one accepted transport to its protocol, `http1.py` speaks HTTP/1.1 over it.
"""
