"""Runtimes behind one interface. A runtime's library is imported when the first model needs it."""
