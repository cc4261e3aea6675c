"""One module per agent: decode, decide, emit."""
