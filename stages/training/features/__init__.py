"""Choosing features: the scorer of sets and the searches."""
