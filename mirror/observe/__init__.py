"""What the mirror says of itself: metrics, logs, health."""
