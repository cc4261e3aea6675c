"""The composition root: settings, topics, records, services and the command."""
