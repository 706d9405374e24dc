"""A staged incident after the other: whether the alerts fire and resolve, and the dashboard has something to show.

`rules` shortens the rules of deploy/prometheus, `prometheus` runs a real one on them, `site` the servers that it
watches, `traffic` their clients. `incidents` says what goes wrong and which alerts must tell, `stage` lets it happen.
`dashboard` asks every query of deploy/grafana's dashboard, `picture` draws the answers.
"""
