"""Settings to a job to a loop to records."""
