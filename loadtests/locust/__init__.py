"""Locust users for every protocol of the server: their answers are checked, and the server's own metrics drawn beside.

`loadtests/locustfile.py` is what locust runs; `python -m loadtests.locust smoke` starts a server for it, too.

`options` what can be chosen; `samples` what is sent and expected; `target` where to, encoded for each protocol; `users`
send it; `shapes` how many users there are when (`pace` tells locust); `watch` what is seen meanwhile; `report` the
page that tells of it.
"""
