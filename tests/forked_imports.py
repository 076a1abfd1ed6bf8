"""Imported once by the process that servers are forked from: see tests/forked.py."""

import gc
import os
import tempfile

# prometheus_client asks once whether there are several processes, and after a fork again where.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp()

import service  # noqa: F401
import torch  # noqa: F401
import transformers  # noqa: F401
import uvicorn  # noqa: F401
from bentoml._internal.log import SERVER_LOGGING_CONFIG

# A worker sets up logging, which silences loggers that exist, before it imports the service.
SERVER_LOGGING_CONFIG["disable_existing_loggers"] = False
gc.freeze()
