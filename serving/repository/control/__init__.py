"""What operators want: orders, rollouts, what of it is kept over restarts, and the history of what happened."""
