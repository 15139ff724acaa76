"""What computes the forward pass; the only place that imports keras or tensorflow."""
