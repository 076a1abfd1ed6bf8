"""Speakers, emotions, and the choice of a speaker for a request."""
