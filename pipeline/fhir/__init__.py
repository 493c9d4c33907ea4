"""The resources that Canvas takes, as data and pure functions. Each rule cites its page."""
