"""The tests; `make test` runs all of them, `make test-fast` those of `unit/` that take seconds."""
