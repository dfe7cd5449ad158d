"""What readers see, and when: nights, the gates before a version is published, and the way back."""
