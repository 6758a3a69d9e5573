"""A run for other tools: one file a format. Each writes to a folder, and checks what it wrote."""
