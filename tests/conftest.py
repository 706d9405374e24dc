"""What holds for all tests."""

from hypothesis import settings

# The same examples in each run, and none that fails because a machine is slow.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")
