"""Tests of both clients against a server of their own. `test_sync_*` are made from `test_async_*` by `dev.py generate`."""

import faulthandler
import logging

# A test that hangs says where, rather than nothing.
faulthandler.dump_traceback_later(1800, exit=True)
# Debug mode of unittest's event loop tells of every pause on a busy machine.
logging.getLogger("asyncio").setLevel(logging.ERROR)
