"""What Canvas takes, as data and pure functions. Each rule cites the page that it comes from."""
