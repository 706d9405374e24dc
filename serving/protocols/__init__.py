"""Codecs and route tables: bytes or messages on one side, `InferRequest` and `InferResponse` on the other.

No sockets here; `transport` owns those. One table (`status`) says what an error is called in each protocol.
"""
