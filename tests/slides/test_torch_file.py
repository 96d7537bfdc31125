"""Arrays come out of pickles bit by bit; nothing else does."""

import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from healnet.slides.torch_file import load_array, unpickle_array

NUMBERS = st.one_of(
    npst.floating_dtypes(endianness="?"), npst.integer_dtypes(endianness="?"), npst.boolean_dtypes()
).filter(lambda dtype: dtype.itemsize <= 8)


@settings(max_examples=60, deadline=None)
@given(
    array=npst.arrays(NUMBERS, npst.array_shapes(min_dims=0, max_dims=4, min_side=0)),
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
    fortran=st.booleans(),
)
def test_any_array_of_numbers_in_any_protocol(array, protocol, fortran):
    array = np.asfortranarray(array) if fortran else array
    back = unpickle_array(pickle.dumps(array, protocol=protocol))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@settings(max_examples=150, deadline=None)
@example(position=3, byte=92, protocol=2)
@given(position=st.integers(0, 200), byte=st.integers(0, 255), protocol=st.integers(2, 5))
def test_a_damaged_pickle_gives_an_array_or_an_error_of_pickle(position, byte, protocol):
    data = bytearray(pickle.dumps(np.arange(6.0).reshape(2, 3), protocol=protocol))
    data[position % len(data)] = byte
    try:
        array = unpickle_array(bytes(data))
    except (
        pickle.UnpicklingError,
        ValueError,
        EOFError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        DeprecationWarning,  # a backslash in a name, which pickletools takes for an escape
    ):
        return
    assert array.nbytes <= 2 * len(data)


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


def array_pickle(dtype=b"f4"):
    """A protocol-2 pickle of an array, with parts of the writer's choice."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU" + struct.pack("B", len(dtype)) + dtype + b"\x89\x88\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89C\x08"
        + struct.pack("<2f", 1.5, -2.5)
        + b"tb."
    )


def test_a_handwritten_pickle_is_read():
    assert unpickle_array(array_pickle()).tolist() == [1.5, -2.5]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (array_pickle(b"O"), r"an array of type 'O', not of numbers"),
        (array_pickle(b"f8"), r"an array that claims shape \(2,\) of float64 and has 8 bytes"),
        (array_pickle(b"S4"), r"an array of type 'S4', not of numbers"),
        (pickle.dumps({"a": 1}), r"a pickle of a dict with \['a'\]"),
        (pickle.dumps([1.0]), r"a pickle of a value of type list"),
        (pickle.dumps(np.float32(1)), r"asks for numpy\._?core\.multiarray\.scalar, where only NumPy arrays"),
        (
            pickle.dumps(eval),
            r"a pickle that asks for builtins.eval, where only NumPy arrays and tensors are read",
        ),
        (pickle.dumps(torch.ones(2)), r"asks for torch\.\w+\.\w+, where only NumPy"),
        (
            b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aU\x04zlib\x86R.",
            r"a pickle that asks for the codec 'zlib'",
        ),
        (b"\x80\x02c_codecs\nencode\n}b.", r"a pickle that alters a function"),
        (b"\x80\x02cnumpy\ndtype\nN}U\x04callK\x01s\x86b.", r"a pickle that alters a function"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", r"NEWOBJ class argument"),
        (b"\x80\x02U\x01aQ.", r"a pickle that refers to storage outside itself"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.", r"a pickle of a value of type _Array"),
        (b"\x80\x02" + b"N0" * 6000 + b"N.", r"a pickle of more than one array"),
        (b"\x80\x02Nr\xff\xff\xff\xff.", r"a pickle of more than one array"),
    ],
)
def test_what_is_refused(data, message):
    with pytest.raises(pickle.UnpicklingError, match=message):
        unpickle_array(data)


def test_whole_message(tmp_path):
    path = tmp_path / "a.pt"
    torch.save([torch.ones(2)], path)
    with pytest.raises(
        ValueError, match=rf"^{path}: expected one tensor or NumPy array, got a value of type list$"
    ):
        load_array(path)
    path.write_bytes(pickle.dumps(eval))
    with pytest.raises(
        ValueError,
        match=rf"^{path}: expected one tensor or NumPy array in a PyTorch file, nothing of which is executed; "
        r"got a pickle that asks for builtins\.eval, where only NumPy arrays and tensors are read$",
    ):
        load_array(path)
