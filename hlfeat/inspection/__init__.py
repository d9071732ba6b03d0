"""What a feature directory holds, and whether it is intact."""
