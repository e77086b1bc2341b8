"""Real faults under load, each with an audit by keys: `make test-faults`."""
