"""The files of a saved model need the package of their format."""

import pytest

pytest.importorskip("safetensors", reason="the extra hub is not installed")
