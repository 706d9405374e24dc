"""Types, errors, the model's specification and metrics. Imports nothing else of ours."""
