"""What the commands do. Each is imported when it runs, so that none waits for what another needs."""
