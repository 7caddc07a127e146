"""Operating-system processes: loading the application, signals, workers, the supervisor. Floor 4."""
