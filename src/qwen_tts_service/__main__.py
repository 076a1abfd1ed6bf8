"""Entry point of `python -m qwen_tts_service` and of the command `qwen-tts`."""

import sys

from .cli.commands import run


def main() -> None:
    """Run the command line and end the process with its code."""
    sys.exit(run())


if __name__ == "__main__":
    main()
