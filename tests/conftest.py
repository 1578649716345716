"""Property tests try the same examples in every run, so that `make test` gives one verdict for one commit.

To search for new ones: `HYPOTHESIS_PROFILE=search make test`. Neither has a deadline: a busy machine is no fault.
"""

import os

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
