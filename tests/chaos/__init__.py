"""Whether the hub keeps its promise while everything around it breaks: `python -m tests.chaos`, or `make chaos`."""
