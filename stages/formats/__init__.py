"""Write and read one artifact each: the only coupling between stages."""
