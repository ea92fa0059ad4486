"""One volume from a file."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from softmix.data import DataError, load_volume

ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def nifti(path: Path, array: np.ndarray, slope: float = 1.0, shift: float = 0.0) -> Path:
    """A NIfTI-1 file by hand: a header of 348 bytes, 4 bytes without extensions, and the voxels, x fastest.

    array : [x, y, z] or [x, y, z, channel], of int16.
    """
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, array.ndim, *array.shape, *(1,) * (7 - array.ndim))
    struct.pack_into("<hh", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1.0, 0.5, 0.75, 3.0, 1, 1, 1, 1)
    struct.pack_into("<fff", header, 108, 352.0, slope, shift)
    header[344:348] = b"n+1\0"
    path.write_bytes(bytes(header) + array.astype("<i2").tobytes(order="F"))
    return path


def test_an_array_of_a_volume(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ARRAY)
    found = load_volume(tmp_path / "v.npy")
    assert found.values.shape == (1, 2, 3, 4) and found.values.dtype == torch.float32 and found.spacing is None
    assert (found.low, found.high) == (0, 23)
    assert torch.allclose(found.values[0], torch.from_numpy(ARRAY) / 11.5 - 1)
    assert torch.allclose(found.back(found.values)[0], torch.from_numpy(ARRAY), atol=1e-4)


def test_channels_and_a_range_of_the_users_own(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.stack([ARRAY, ARRAY + 100]).astype(np.int16))
    found = load_volume(str(tmp_path / "v.npy"), low=0, high=50)
    assert found.values.shape == (2, 2, 3, 4)
    assert float(found.values[0, 0, 0, 0]) == -1 and float(found.values[1].max()) == pytest.approx(2 * 123 / 50 - 1)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_nifti_file_with_its_scale_and_spacing(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("nibabel")
    array = np.arange(24).reshape(4, 3, 2)
    path = nifti(tmp_path / "v.nii", array, slope=2.0, shift=-7.0)
    if ending == ".nii.gz":
        import gzip

        (tmp_path / "v.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "v.nii.gz"
    found = load_volume(path)
    assert found.values.shape == (1, 2, 3, 4) and found.spacing == (3.0, 0.75, 0.5)
    wanted = torch.from_numpy(2.0 * array.transpose(2, 1, 0) - 7)
    assert torch.allclose(found.back(found.values)[0].double(), wanted, atol=1e-4)


def test_the_fourth_axis_of_a_nifti_file_is_the_channel(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    array = np.arange(48).reshape(4, 3, 2, 2)
    found = load_volume(nifti(tmp_path / "v.nii", array))
    assert found.values.shape == (2, 2, 3, 4)
    assert float(found.back(found.values)[1, 0, 2, 3]) == pytest.approx(array[3, 2, 0, 1], abs=1e-4)


def test_without_nibabel_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    path = nifti(tmp_path / "v.nii", np.zeros((2, 2, 2)))
    with pytest.raises(DataError, match=r"pip install 'softmix\[nifti\]'"):
        load_volume(path)


def test_a_damaged_nifti_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    (tmp_path / "v.nii").write_bytes(b"no header")
    with pytest.raises(DataError, match=r"v\.nii cannot be read as a NIfTI file"):
        load_volume(tmp_path / "v.nii")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3)), "a volume has real numbers with three axes"),
        (np.zeros((1, 2, 3, 4, 5)), "a volume has real numbers with three axes"),
        (np.zeros((0, 3, 4)), "a volume has real numbers with three axes"),
        (np.zeros((2, 3, 4), complex), "a volume has real numbers with three axes"),
        (np.ones((2, 3, 4)), "the range 1 to 1 has no width"),
        (np.full((2, 3, 4), np.nan), "24 numbers that are not finite"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(DataError, match=message):
        load_volume(tmp_path / "v.npy")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        load_volume(tmp_path / "none.npy")
    (tmp_path / "v.dcm").write_bytes(b"DICM")
    with pytest.raises(DataError, match=r"is no \.npy, \.nii or \.nii\.gz file"):
        load_volume(tmp_path / "v.dcm")
    (tmp_path / "v.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"cannot be read as a \.npy array"):
        load_volume(tmp_path / "v.npy")
