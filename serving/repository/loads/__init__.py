"""A version's way up and down: tried in another process, given room, loaded, proved, warmed up, and released."""
