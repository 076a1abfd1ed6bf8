"""Imported once by the process that servers are forked from: see tests/forked.py."""

import gc
import os
import tempfile

# prometheus_client asks once whether there are several processes, and after a fork again where.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp()

import service  # noqa: F401
import uvicorn  # noqa: F401
from bentoml._internal.log import SERVER_LOGGING_CONFIG

# What `build` imports once it is known which voice speaks: torch and transformers among it.
import qwen_tts_service.engine.engine
import qwen_tts_service.espeak.voice
import qwen_tts_service.hub.download
import qwen_tts_service.qwen.voice  # noqa: F401

# A worker sets up logging, which silences loggers that exist, before it imports the service.
SERVER_LOGGING_CONFIG["disable_existing_loggers"] = False
gc.freeze()
