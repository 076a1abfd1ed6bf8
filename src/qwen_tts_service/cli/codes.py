"""Exit codes of the command line."""

DONE, FAILED, CUT, INTERRUPTED = 0, 1, 3, 130
