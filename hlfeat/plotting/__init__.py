"""Pictures of clips and of feature directories."""
