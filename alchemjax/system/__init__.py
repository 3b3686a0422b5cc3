"""What is where, which species may sit there, and who sees whom."""
