"""What a person at the terminal sees and does: data, words about it, progress, and Ctrl-C."""
