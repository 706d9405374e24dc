"""Listeners: HTTP and gRPC sockets, their limits and their orderly end. Knows codecs only by their callables."""
