"""HTTP/2 without I/O (RFC 9113), behind a contract of our own; see `machine`."""
