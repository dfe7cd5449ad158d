"""What keeps a table fresh and readers safe: nights, gates, publishing, maintenance, deletion, and changes of model."""
