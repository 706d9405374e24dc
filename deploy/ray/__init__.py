"""This server as a Ray Serve application: replicas of its engine behind Ray's HTTP and gRPC proxies.

    client -> proxy (a Ray process on each node) -> replica (a Ray actor: engine, batcher, models)

`proxy` is what runs in Ray's proxies, `app`, `front`, `calls`, `shared` and `metrics` what runs in a replica; `local`,
`chaos` and `measure` are commands that try it on a cluster of several nodes on one machine. docs/ray.md shows it.
"""
