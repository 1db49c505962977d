"""The lectures of the course: one file a lecture, each an experiment and a page."""
