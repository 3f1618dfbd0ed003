"""Container images built from ordinary packages, for benchmarks and the demo."""
