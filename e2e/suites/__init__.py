"""What upstream's external-storage suites said, read and shown."""
