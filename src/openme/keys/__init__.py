"""Key types and their text forms."""
