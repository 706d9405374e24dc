"""Repositories in object stores, brought to a local directory that the rest of the server takes for an ordinary one.

`store` asks the store, through fsspec. `arrange` makes models and versions of a listing; pure. `fetch` downloads
objects, `cache` keeps them by content, `tree` is the local repository made of them. `synchronise` is one pass of all
that, blocking; `mirror` says when, on the event loop. `needs` decides which versions are worth it, and `fetching` is
what the manager sees of all this. Nothing here loads a model.
"""

from serving.repository.remote.mirror import Mirror, MirrorError
from serving.repository.remote.store import is_url

__all__ = ["Mirror", "MirrorError", "is_url"]
