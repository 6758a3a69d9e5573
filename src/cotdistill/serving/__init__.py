"""A run's student, asked: behind an OpenAI-compatible endpoint (`serve`), or once in the terminal (`ask`)."""
