"""`python -m qwen_tts_service`, and the command `qwen-tts`. It knows only that there is one."""

import sys

from .cli.commands import run


def main() -> None:
    """Run the command line and end the process with its code."""
    sys.exit(run())


if __name__ == "__main__":
    main()
