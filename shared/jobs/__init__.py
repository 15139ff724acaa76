"""The life of a job, from intake to its terminal state."""
