"""Arrays and tensors come out of PyTorch files bit by bit; nothing else does."""

import re
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from healnet.slides.features.torch_file import load_array


@settings(max_examples=40, deadline=None)
@given(
    array=npst.arrays(
        npst.floating_dtypes(endianness="?").filter(lambda dtype: dtype.itemsize <= 8),
        npst.array_shapes(min_dims=0, max_dims=4, min_side=0),
    ),
    fortran=st.booleans(),
    zipped=st.booleans(),
)
def test_any_array_of_floats_in_both_of_torchs_formats(tmp_path_factory, array, fortran, zipped):
    path = tmp_path_factory.mktemp("array") / "a.pt"
    torch.save(np.asfortranarray(array) if fortran else array, path, _use_new_zipfile_serialization=zipped)
    back = load_array(path).numpy()
    assert back.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, array)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 2000), byte=st.integers(0, 255), cut=st.booleans(), zipped=st.booleans())
def test_a_damaged_file_gives_a_tensor_or_a_value_error(tmp_path_factory, position, byte, cut, zipped):
    path = tmp_path_factory.mktemp("damaged") / "a.pt"
    torch.save(torch.ones(4, 3), path, _use_new_zipfile_serialization=zipped)
    data = bytearray(path.read_bytes())
    data[position % len(data)] = byte
    path.write_bytes(data[: position % len(data)] if cut else data)
    try:
        tensor = load_array(path)
    except ValueError as error:
        tensor, message = torch.empty(0), str(error)
    else:
        message = f"{path}: expected "
    assert message.startswith(f"{path}: expected ")
    assert tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def test_a_compressed_record_is_refused_where_it_would_be_read_as_its_compressed_bytes(tmp_path):
    torch.save(torch.ones(40, 300), tmp_path / "stored.pt")
    with zipfile.ZipFile(tmp_path / "stored.pt") as old, zipfile.ZipFile(tmp_path / "a.pt", "w") as new:
        for member in old.infolist():
            data = old.read(member)
            deflated = member.filename.endswith("data/0")
            new.writestr(member.filename, data, zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED)
    with pytest.raises(ValueError, match=r"got an archive whose member \w+/data/0 is compressed$"):
        load_array(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.ones(2)], "expected one tensor or NumPy array, got a value of type list"),
        ({"a": torch.ones(2)}, "expected one tensor or NumPy array, got a dict with ['a']"),
        (
            torch.ones(2, dtype=torch.float8_e4m3fn),
            "expected floating-point features of 16, 32 or 64 bits, got torch.float8_e4m3fn",
        ),
        (
            torch.ones(2, device="meta"),
            "expected a dense tensor with its values, got torch.strided of torch.float32 on meta",
        ),
        (
            eval,
            "expected one tensor or NumPy array in a PyTorch file, nothing of which is executed; "
            "got a pickle that asks for eval, where only NumPy arrays and tensors are read",
        ),
    ],
)
def test_what_is_refused(tmp_path, value, message):
    path = tmp_path / "a.pt"
    torch.save(value, path)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}$"):
        load_array(path)
