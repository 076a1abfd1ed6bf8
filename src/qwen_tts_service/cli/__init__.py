"""The command line: what the service does, without a server."""
