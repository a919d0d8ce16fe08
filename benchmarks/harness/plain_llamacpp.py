"""Runs llama.cpp's driver, without AMX: the arguments are the driver's file and its own arguments.

llama.cpp's products by AMX crash on SmolLM2 (as of llama-cpp-python 0.3.36). They belong to its extra buffer
types, which can be turned off all together; the others are not for weights in Q4_1.
"""

import runpy
import sys
from typing import Any


def main() -> None:
    import llama_cpp  # of the driver's environment

    defaults = llama_cpp.llama_model_default_params

    def without_extra_buffers() -> Any:
        params = defaults()
        params.use_extra_bufts = False
        return params

    llama_cpp.llama_model_default_params = without_extra_buffers
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
