"""Load on a running server: a benchmark with floors to compare against, and locust users."""
