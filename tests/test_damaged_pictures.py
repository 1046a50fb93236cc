"""Hundreds of damaged and odd pictures: the check at the start and the reader agree on every one, in one sentence."""

import io
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from trees import class_tree, picture
from typer.testing import CliRunner

from paretune.cli.main import app
from paretune.data import UnreadableImage, open_image, open_split, open_splits
from paretune.data.images import probe
from paretune.data.png import SIGNATURE, check_png
from paretune.data.verify import verify

SEED = 12
ROUNDS = 30  # of random damage for each sound picture


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def chunk(name, content, checksum=None):
    crc = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


def png(raw, size=(24, 20), depth=8, colour=2, interlaced=0, extra=b"", deflated=None):
    """A PNG with right checksums around whatever is inside; `raw` are the rows, each with its filter's byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced))
    data = chunk(b"IDAT", zlib.compress(raw) if deflated is None else deflated)
    return SIGNATURE + header + extra + data + chunk(b"IEND", b"")


def rows(width=24, height=20, bits=24):
    noise = np.random.default_rng(SEED).integers(0, 256, (height, -(-width * bits // 8)), np.uint8)
    return b"".join(b"\0" + row.tobytes() for row in noise)


def passes(width=24, height=20, bits=24):
    """The seven pictures of an interlaced PNG, one after the other."""
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    sizes = ((len(range(x, width, right)), len(range(y, height, down))) for x, y, right, down in steps)
    return b"".join(rows(*size, bits) for size in sizes if all(size))


def sound():
    """{name: file} of pictures that every reader takes."""
    image = picture(1, (24, 20))
    deep = Image.fromarray(np.linspace(0, 65535, 480).astype(np.uint16).reshape(20, 24))
    frames = [picture(i, (24, 20)) for i in range(3)]
    return {
        "rgb.png": saved(image, "PNG"),
        "gray.png": saved(image.convert("L"), "PNG"),
        "palette.png": saved(image.convert("P"), "PNG"),
        "clear.png": saved(image.convert("RGBA"), "PNG"),
        "bits.png": saved(image.convert("1"), "PNG"),
        "deep.png": saved(deep, "PNG"),
        "frames.png": saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "interlaced.png": png(passes(), interlaced=1),
        "photo.jpg": saved(image, "JPEG"),
        "progressive.jpg": saved(image, "JPEG", progressive=True),
        "gray.jpg": saved(image.convert("L"), "JPEG"),
        "print.jpg": saved(image.convert("CMYK"), "JPEG"),
        "one.gif": saved(image, "GIF"),
        "frames.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "a.bmp": saved(image, "BMP"),
        "a.ppm": saved(image, "PPM"),
        "lossy.webp": saved(image, "WEBP"),
        "exact.webp": saved(image.convert("RGBA"), "WEBP", lossless=True),
        "plain.tif": saved(image, "TIFF"),
        "packed.tif": saved(image, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": saved(image, "TIFF", compression="jpeg"),
        "deep.tif": saved(deep, "TIFF"),
        "float.tif": saved(Image.fromarray(np.full((20, 24), 0.5, np.float32)), "TIFF"),
        **{f"exif{i}.{kind}": saved(image, kind, exif=b"Exif\0\0" + junk) for kind in ("png", "webp") for i, junk in
           enumerate((b"", b"II", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0\xff\xff\xff\xff", bytes(range(256))))},
    }  # fmt: skip


def spoilt():
    """{name: file} of pictures that no reader may take, with the damage where Pillow or a checksum does not see it."""
    raw, whole = rows(), zlib.compress(rows())
    found = {
        "half.png": png(raw[: len(raw) // 2]),
        "no row.png": png(b""),
        "last byte.png": png(raw[:-1]),
        "half interlaced.png": png(passes()[:-200], interlaced=1),
        "empty data.png": png(raw, deflated=b""),
        "no data.png": SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 24, 20, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""),
        "no end.png": png(raw)[:-12],
        "checksum.png": png(raw, extra=chunk(b"tEXt", b"a\0b", checksum=7)),
        "pipe.png": b"",
    }
    found |= {f"cut {n}.png": png(raw, deflated=whole[:n]) for n in range(1, len(whole), len(whole) // 20)}
    for value in (np.nan, np.inf, -np.inf, -0.1, 1.5, 3e38):
        pixels = np.full((20, 24), 0.5, np.float32)
        pixels[7, 7] = value
        found[f"{value}.tif"] = saved(Image.fromarray(pixels), "TIFF")
    for value in (-1, 65536, 2**31 - 1):
        found[f"{value}.tif"] = saved(Image.fromarray(np.full((20, 24), value, np.int32)), "TIFF")
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"
    large = {f"{side} a side.png": png(b"", (side, side)) for side in (20000, 2**31 - 1)}
    return {**found, **large, "program.png": program}


def spoil(data, g):
    """One kind of random damage."""
    kind, data = g.integers(5), bytearray(data)
    at = int(g.integers(len(data)))
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        data[at] ^= 1 << int(g.integers(8))
    elif kind == 2:
        data[at : at + 16] = bytes(len(data[at : at + 16]))
    elif kind == 3:
        data[at : at + 8] = g.integers(0, 256, 8, np.uint8).tobytes()
    else:
        data[at:at] = data[:at][-20:]
    return bytes(data)


def flipped(data, g):
    """A PNG with one bit of its deflated pixels turned, and the checksum made right again."""
    at = data.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", data[at - 8 : at - 4])
    content = bytearray(data[at : at + length])
    content[int(g.integers(length))] ^= 1 << int(g.integers(8))
    return data[: at - 8] + chunk(b"IDAT", bytes(content)) + data[at + length + 4 :]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """More than 500 files: their paths by what is known of them: sound, spoilt, or damaged at random."""
    folder, g = tmp_path_factory.mktemp("pictures"), np.random.default_rng(SEED)
    good = sound()
    maybe = {f"{i} {name}": spoil(data, g) for name, data in good.items() for i in range(ROUNDS)}
    maybe |= {
        f"bit {i} {name}": flipped(data, g) for name, data in good.items() if name.endswith("png") for i in range(8)
    }
    found = {}
    for known, files in (("sound", good), ("spoilt", spoilt()), ("random", maybe)):
        (folder / known).mkdir()
        found[known] = []
        for name, data in files.items():
            (folder / known / name).write_bytes(data)
            found[known].append(folder / known / name)
    return found


def answer(read, path):
    """What reading says: None, the sentence of a refusal, or the kind of another error."""
    try:
        read(path)
    except UnreadableImage as problem:
        return str(problem)
    except Exception as problem:
        return type(problem)
    return None


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damage before it refuses it
def test_no_damage_makes_the_check_and_the_reader_disagree(pictures):
    lapses, counts = [], Counter()
    for known, paths in pictures.items():
        for path in paths:
            checked, opened = answer(probe, path), answer(open_image, path)
            counts[known] += 1
            counts["refused"] += opened is not None
            wrong = {
                "not a refusal": isinstance(checked, type) or isinstance(opened, type),
                "check and reader disagree": (checked is None) != (opened is None),
                "sound and refused": known == "sound" and opened is not None,
                "spoilt and taken": known == "spoilt" and opened is None,
                "no short line": isinstance(opened, str) and (len(opened) > 420 or not opened.isprintable()),
            }
            lapses += [(path.name, what, checked, opened) for what, is_wrong in wrong.items() if is_wrong]
    assert lapses == []
    assert sum(map(len, pictures.values())) >= 1000
    assert counts["refused"] > 300


@pytest.mark.filterwarnings("ignore")
def test_what_is_skipped_at_the_start_is_all_that_cannot_be_read(pictures, tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
    for i, path in enumerate(path for paths in pictures.values() for path in paths):
        (tmp_path / ("ant", "bee")[i % 2] / f"{i} {path.name}").write_bytes(path.read_bytes())
    images = open_split(tmp_path, "all", ("ant", "bee"), skip_unreadable=True)
    assert len(images) + len(images.skipped) == sum(map(len, pictures.values()))
    assert all(images.picture(i).mode == "RGB" for i in range(len(images)))
    assert f"unreadable images, {len(images.skipped):,}" in verify(tmp_path).problems[0]


def test_a_png_of_every_kind_has_as_many_rows_as_it_says(tmp_path):
    for depth, colour, bits in ((1, 0, 1), (4, 0, 4), (16, 0, 16), (2, 3, 2), (8, 4, 16), (16, 6, 64)):
        for width, height in ((1, 1), (3, 2), (24, 20)):
            for interlaced, raw in enumerate((rows(width, height, bits), passes(width, height, bits))):
                check_png(png(raw, (width, height), depth, colour, interlaced))
                with pytest.raises(ValueError, match="the pixels end after"):
                    check_png(png(raw[:-1], (width, height), depth, colour, interlaced))


def test_train_and_predict_name_what_they_cannot_read(tmp_path):
    class_tree(tmp_path / "data")
    (tmp_path / "data" / "train" / "ant" / "half.png").write_bytes(spoilt()["half.png"])
    done = CliRunner().invoke(app, ["train", "--data", str(tmp_path / "data"), "--model", "paretune_tiny",
                                    "--no-pretrained", "--out", str(tmp_path / "out")])  # fmt: skip
    assert done.exit_code == 2
    assert done.stderr.startswith("paretune: 1 of 7 images cannot be read")
    assert "train/ant/half.png: the pixels end after 730 of 1,460 bytes" in done.stderr
    assert len(open_splits(tmp_path / "data", skip_unreadable=True).train) == 6
