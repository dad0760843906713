"""Shows what goes on inside a trained detector, in pictures and numbers."""
