"""Who may ask the server for what: keys, their scopes and rates, and what needs which. On the event loop."""
