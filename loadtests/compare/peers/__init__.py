"""What runs in the peers' environments: requirements, and for each peer the code that serves the model with it.

A module NAME_app.py is imported by the peer's own Python, where nothing of this project is installed: it may import
nothing of it but `model`.
"""
