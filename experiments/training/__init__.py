"""Training of the embedded miniature model; nothing here is needed to use it."""
