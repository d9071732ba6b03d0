"""A clip's bytes to samples at one rate."""
