"""Trainers: each makes one small real model and publishes it. They never import the server itself."""
