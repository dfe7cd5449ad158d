"""What runs on the driver: decisions. Each room says in its first sentence what happens there."""
