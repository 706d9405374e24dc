"""Data sets: read from the files that their makers publish, fetched on demand, or small imitations of them."""
