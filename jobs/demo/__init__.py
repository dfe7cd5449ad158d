"""`clipmill demo`: a bucket that it draws itself, and the real job over it."""
