"""Everything on one machine: the dev supervisor, the demo, and chaos. Nothing here runs in production."""
