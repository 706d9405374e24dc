"""Hostile clients: what they get, what they cost the server, and what an honest client beside them notices.

`frames` and `wire` write what no honest client would; `http_attacks`, `grpc_attacks` and `tls_attacks` are the attacks,
`attacker` the process that runs one. `healthy` is the honest client, `nothing` the process that does nothing, to
compare with. `measure` puts them together, `judge` says what came of it, `report` shows it.
"""
