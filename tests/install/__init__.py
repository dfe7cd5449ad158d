"""What is published, installed as others install it."""
