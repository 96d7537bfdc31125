"""Tables on disk for a saved model: ids stay text, and what is not right is named with the file."""

import gzip
import re

import pandas as pd
import pytest

from healnet.pretrained.table_file import read_features

FEATURES = {"rna": ["TP53", "MYC"], "clinical": ["age"]}


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "t.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    "text",
    [
        ",rna:TP53,age,note\n007,1.5,61,a word\n12,,True,\n",
        "id;rna:TP53;age\n007;1.5;61\n12;NA;1\n",
        "\ufeff# exported\nid\trna:TP53\tage\n007\t1.5\t61\n12\tNA\t1\n".replace("\ufeff", ""),
        gzip.compress(b"id,rna:TP53,age\n007,1.5,61\n12,NA,1\n", mtime=0),
    ],
)
def test_columns_of_the_model_are_read_and_ids_stay_text(write, text):
    found = read_features(write(text), FEATURES)
    expected = pd.DataFrame({"rna:TP53": [1.5, None], "age": [61.0, 1.0]}, index=["007", "12"])
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "TP53,MYC\n1,2\n",
            "expected ids of patients in the first column, got the feature 'TP53'",
        ),
        (
            "gene,p1,p2\nTP53,1,2\nMYC,3,4\nX,5,6\n",
            "expected some of the model's features ('TP53', 'MYC', 'age'), got the columns 'gene', 'p1', 'p2'; 2 of its "
            "rows are: pass a table with patients in rows",
        ),
        ("id\np1\n", "expected some of the model's features ('TP53', 'MYC', 'age'), got the columns 'id'"),
        ("id,age\np1,61\n,40\n", "row 2 has no id of a patient in the first column"),
        ("id;TP53\np1;1,5\n", "expected numbers in column 'TP53', got '1,5' in line 2"),
        ("id,TP53,TP53\np1,1,2\n", "two columns are named 'TP53'"),
        ("id,age\n", "expected rows under the header, got none"),
        (b"id,age\n\xe9,61\n", "expected UTF-8 text, got the byte 0xe9 in line 2"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_file(write, text, message):
    path = write(text)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}$"):
        read_features(path, FEATURES)
