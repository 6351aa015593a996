"""What every request passes, whichever protocol it came by: a deadline, admission, metrics, errors."""
