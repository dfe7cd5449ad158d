"""What a model's name means, checked without torch and without a network."""
