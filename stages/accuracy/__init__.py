"""Statistics of maps against reference labels."""
