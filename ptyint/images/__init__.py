"""What came out: objects put together, compared and drawn."""
