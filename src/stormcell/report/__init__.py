"""What a run leaves for the eye: figures, tables, one HTML page."""
