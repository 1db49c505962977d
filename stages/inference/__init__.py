"""Whole-scene prediction in bounded memory."""
