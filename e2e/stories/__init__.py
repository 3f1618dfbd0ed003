"""One story a file: `run(it)` tells it, and its first line says what happens."""
