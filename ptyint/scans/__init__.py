"""What was measured: scans, their files, their positions in groups, and the model that makes patterns."""
