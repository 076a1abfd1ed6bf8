"""The embedded voice: espeak-ng speaking ten languages on any CPU, without weights."""
