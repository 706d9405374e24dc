"""What is on disk: which models and versions directories hold, what their settings say, and what of that to believe."""
