"""What a batcher did and why, and what would help: `account` adds up, `figures` and `explain` say it. Pure."""
