"""The annotation room."""
