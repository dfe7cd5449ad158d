"""What goes to a worker, through it and back, and how it adds up: every sample is a row, a reject or left out."""
