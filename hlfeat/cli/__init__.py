"""The command line: parses, calls, translates errors into exit codes."""
