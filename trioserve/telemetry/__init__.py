"""What the server says about itself: access-log lines, log records, counters. It imports no other floor."""
