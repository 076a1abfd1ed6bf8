"""Command line: speak a text or list the voices without a server."""
