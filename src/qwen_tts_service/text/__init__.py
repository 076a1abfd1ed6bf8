"""What is said: its language, its spelling and its division into parts."""
