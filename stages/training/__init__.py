"""Loops that fit classifiers to samples."""
