"""What is done: one file a stage, and the floors below them."""
