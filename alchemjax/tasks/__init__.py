"""What to do with a potential."""
