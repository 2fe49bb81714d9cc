"""Programs that measure every claim of the README; see `benchmarks/README.md`."""
