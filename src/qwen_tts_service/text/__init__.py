"""Text processing: language, normalisation, sentence splitting."""
