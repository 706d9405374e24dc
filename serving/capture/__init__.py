"""Samples of requests and their answers on disk, to look at and to send again: docs/capture.md.

`record` is one request and its form on disk, `segments` are the files that hold many, `recorder` takes samples on the
event loop and writes them in a thread. Knows engines and how tensors become bytes; no wire, no listener. What is sent
again goes through the command line's client.
"""
