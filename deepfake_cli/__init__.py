"""The command line of `deepfake`: it parses, calls one public function of `pipelines`, and prints."""

EXIT_USAGE = 2
"""Wrong use or configuration; nothing was processed."""
EXIT_INCOMPLETE = 3
"""Some inputs failed, or an output could not be written."""
EXIT_CHECK_FAILED = 4
"""A check found something wrong: a leak, contradictory labels, a damaged file, a broken installation."""
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
