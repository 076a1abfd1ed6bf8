"""What cannot work together is refused before anything is looked for or loaded."""

import pytest

from qwen_tts_service.build import check
from qwen_tts_service.errors import StartupError
from qwen_tts_service.settings import load_settings


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        pytest.param(
            {"TORCH_COMPILE": "1", "DEVICE": "cpu"},
            "TORCH_COMPILE=1 needs CUDA, and DEVICE=cpu",
            id="compile on a CPU",
        ),
        pytest.param(
            {"CPU_WEIGHTS": "int8", "DEVICE": "cuda:1"},
            "CPU_WEIGHTS=int8 is for the CPU, and DEVICE=cuda:1",
            id="weights of a CPU on CUDA",
        ),
        pytest.param(
            {"MODEL_NAME": "espeak-ng", "DEVICE": "cuda"},
            "the embedded voice espeak-ng speaks on the CPU only",
            id="embedded voice on CUDA",
        ),
    ],
)
def test_settings_that_exclude_each_other_are_named(environ, said):
    with pytest.raises(StartupError, match=said):
        check(load_settings(environ))
