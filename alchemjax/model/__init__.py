"""The energy of every node."""
