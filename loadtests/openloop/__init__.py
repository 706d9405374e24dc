"""Open-loop measurement: requests come when they come, whether or not the ones before them were answered.

A client that waits for its answer before it asks again slows down with the server and hides what waiting there is. Here
arrivals are a Poisson process, fixed beforehand, and a request's latency counts from when it was due.
"""
