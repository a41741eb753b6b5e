"""The environment of a test run, set before Django reads its settings: pytest loads it by `-p tests.environment`.

Tests must not write into the data folder of an installation that somebody runs from the same checkout.
"""

import atexit
import os
import shutil
import tempfile

from hypothesis import settings

_data_dir = tempfile.mkdtemp(prefix="atrium-tests-")
atexit.register(shutil.rmtree, _data_dir, ignore_errors=True)
os.environ["ATRIUM_DATA_DIR"] = _data_dir
os.environ["HF_MODULES_CACHE"] = os.path.join(_data_dir, "modules")  # where code of repositories is run from
os.environ["ATRIUM_LOG_LEVEL"] = "warning"
os.environ["ATRIUM_WORKER_COMPILE"] = "off"  # takes a minute of both cores; its own tests turn it on
for _name in ("DATABASE_URL", "REDIS_URL", "ATRIUM_BROKER_URL", "ATRIUM_API_KEY", "ATRIUM_ADMIN_PASSWORD"):
    os.environ.pop(_name, None)

# The same examples in every run, so that a change is refused for what it did. A search for new ones:
# pytest --hypothesis-profile=search
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("search", derandomize=False)
settings.load_profile("repeatable")
