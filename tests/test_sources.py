"""Images from outside: what becomes of odd and broken files, every kind of source, every refusal, keys, and two real
data sets."""
import io
import json
import os
import re
import shlex
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, ImageCms

from synthnb.base.environment import ROOT, store_root
from synthnb.base.errors import BadInput
from synthnb.base.options import Images
from synthnb.base.plugins import add_module_folders
from synthnb.data.decoding import Unreadable, decode_image
from synthnb.data.external_images import read_dataset, source_identity

REAL = ROOT.parent / "shared" / "realdata"
FRUIT = ("Golden-Delicious", "Granny-Smith", "Pink-Lady", "Red-Delicious", "Royal-Gala", "Anjou", "Conference",
    "Kaiser", "Orange", "Satsumas")
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def refused(images):
    "The message of a refusal."
    with pytest.raises(BadInput) as caught: read_dataset(images)
    return str(caught.value)


def offers(message):
    "The commands that a refusal offers, as options."
    for words in re.findall(r"--set (?:'[^']*'|[^\s;']+)", message):
        key, _, value = shlex.split(words)[1].partition("=")
        yield {key.removeprefix("dataset."): yaml.safe_load(value)}


def goes_on(images):
    "Read images in each way that the refusal offers, once or twice; how many ways there were."
    ways = list(offers(refused(images)))
    for way in ways:
        chosen = images.model_copy(update=way)
        try: read_dataset(chosen)
        except BadInput as e: read_dataset(chosen.model_copy(update=next(offers(str(e)))))
    return len(ways)


def plain(n, first=0, size=8, colour=False):
    "n different pictures."
    draw = np.random.default_rng(first)
    return [Image.fromarray(draw.integers(0, 255, (size, size, 3) if colour else (size, size), np.uint8))
        for _ in range(n)]


def fill(folder, **classes):
    "A folder with so many pictures a class, all different; keys such as `train__cat` make folders in folders."
    for name, n in classes.items():
        where = folder.joinpath(*name.split("__"))
        where.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(plain(n, zlib.crc32(name.encode()))): image.save(where / f"{i:02}.png")
    return folder


def ask(source, **options):
    return Images(source=source if ":" in str(source) else f"folder:{source}", **{"size": 8} | options)


# ---- odd images: each as a viewer would show it

def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def halves(left, right, mode="RGB", size=16):
    "Two colours side by side."
    image = Image.new(mode, (size, size), left)
    image.paste(right, (size // 2, 0, size, size))
    return image


def corners(content, size=16):
    "The pixels at the left and the right edge of what is shown, halfway down."
    x = decode_image(content, size).x
    return [tuple(int(v) for v in (x[:, size // 2, column] if len(x) == 3 else x[[0, 0, 0], size // 2, column]))
        for column in (1, -2)]


def near(found, wanted, most=3):
    assert np.abs(np.int64(found) - np.int64(wanted)).max() <= most, (found, wanted)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def test_exif_turns_upright():
    upper = halves(RED, BLUE, size=64).transpose(Image.Transpose.ROTATE_270)  # red is above
    near(corners(encoded(upper, "jpeg", quality=95, subsampling=0, exif=exif(6))), [BLUE, RED], 10)
    near(corners(encoded(upper, "jpeg", quality=95, subsampling=0, exif=exif(8))), [RED, BLUE], 10)
    near(corners(encoded(halves(RED, BLUE), "png", exif=exif(2))), [BLUE, RED], 0)


def test_damaged_exif_is_no_reason_to_refuse():
    near(corners(encoded(halves(RED, BLUE, size=64), "jpeg", quality=95, subsampling=0, exif=b"Exif\0\0nonsense")),
        [RED, BLUE], 10)


def test_palettes_and_single_bits():
    near(corners(encoded(halves(RED, BLUE).quantize(4), "png")), [RED, BLUE], 0)
    assert (corners(encoded(halves(0, 1, "1"), "png")) == [(0, 0, 0), WHITE]
        and len(decode_image(encoded(halves(0, 1, "1"), "png"), 16).x) == 1)


def test_palette_with_transparency_lies_over_white():
    image = halves(0, 1, "P")
    image.putpalette([*RED, *BLUE])
    assert corners(encoded(image, "png", transparency=0)) == [WHITE, BLUE]
    assert corners(encoded(image, "gif", transparency=0)) == [WHITE, BLUE]


def test_alpha_lies_over_white():
    assert corners(encoded(halves((*RED, 0), (*BLUE, 255), "RGBA"), "png")) == [WHITE, BLUE]
    near(corners(encoded(halves((*RED, 128), (*BLUE, 255), "RGBA"), "webp", lossless=True)), [(255, 127, 127), BLUE])
    assert corners(encoded(halves((0, 0), (90, 255), "LA"), "png")) == [WHITE, (90, 90, 90)]
    assert corners(encoded(halves(RED, BLUE), "png", transparency=RED)) == [WHITE, BLUE]


def test_sixteen_bits_are_divided_by_257():
    wide = np.full((16, 16), 257 * 200, np.uint16)
    wide[:, :8] = 257 * 10
    for kind in ("png", "tiff", "ppm"):
        assert corners(encoded(Image.fromarray(wide), kind)) == [(10,) * 3, (200,) * 3], kind
    assert corners(encoded(Image.fromarray(wide.astype(np.int32)), "tiff")) == [(10,) * 3, (200,) * 3]
    with pytest.raises(Unreadable, match="values from 0 to 70000"):
        decode_image(encoded(Image.fromarray(np.int32([[0, 70000]])), "tiff"), 8)


def test_cmyk():
    image = halves((0, 255, 255, 0), (255, 255, 0, 0), "CMYK", 64)
    near(corners(encoded(image, "jpeg", quality=95)), [RED, BLUE], 10)
    near(corners(encoded(image, "tiff")), [RED, BLUE], 0)
    near(corners(
        encoded(image, "tiff", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())),
        [RED, BLUE], 0)


def swapped():
    "A profile whose red is sRGB's green and the reverse: nobody has one, but one sees whether it is used."
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[o:o + 4]): o for o in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12)}
    red, green = tags[b"rXYZ"] + 4, tags[b"gXYZ"] + 4
    profile[red:red + 8], profile[green:green + 8] = profile[green:green + 8], profile[red:red + 8]
    return bytes(profile.replace("sRGB".encode("utf-16-be"), "odd ".encode("utf-16-be")))


def test_colour_profiles_are_followed_and_damaged_ones_ignored():
    image = halves(RED, BLUE)
    near(corners(encoded(image, "png", icc_profile=swapped())), [GREEN, BLUE])
    near(corners(encoded(image.quantize(4), "png", icc_profile=swapped())), [GREEN, BLUE])
    for useless in (b"no profile", swapped()[:300]):
        assert corners(encoded(image, "png", icc_profile=useless)) == [RED, BLUE]
    assert (corners(encoded(halves(9, 200, "L"), "png", icc_profile=swapped()))
        == [(9,) * 3, (200,) * 3]), "a colour profile says nothing of grey"


def test_first_frame_of_what_moves():
    frames = [halves(RED, BLUE), halves(GREEN, GREEN)]
    for kind, options in (("gif", {}), ("png", {}), ("webp", {"lossless": True}), ("tiff", {})):
        near(corners(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)), [RED, BLUE], 0)


def test_other_colour_spaces():
    brick, steel = (180, 90, 70), (70, 100, 150)  # LAB of 8 bits is coarse for brighter ones
    lab = ImageCms.profileToProfile(halves(brick, steel), ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"), outputMode="LAB")
    near(corners(encoded(lab, "tiff")), [brick, steel], 4)
    near(corners(encoded(halves(RED, BLUE).convert("YCbCr"), "tiff")), [RED, BLUE], 3)
    near(corners(halves(RED, BLUE).convert("HSV")), [RED, BLUE], 6)


def test_large_jpegs_are_decoded_smaller_and_look_the_same():
    image = Image.effect_mandelbrot((1600, 1200), (-3, -2.5, 2, 2.5), 100).convert("RGB")
    jpeg = encoded(image, "jpeg", quality=95)
    assert decode_image(jpeg, 16).side == 150
    assert np.abs(decode_image(jpeg, 16).x.astype(int) - decode_image(image, 16).x).mean() < 3


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


BOMB = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
WHOLE = encoded(plain(1, size=64)[0], "jpeg")
BROKEN = {
    "truncated.jpg": (WHOLE[:len(WHOLE) // 2], "truncated"),
    "empty.png": (b"", "empty"),
    "text.jpg": (b"dear reader,", "no image that Pillow can read, it begins with b'dear reader,'"),
    "bomb.png": (BOMB, "too many pixels"),
    "float.tif": (encoded(Image.new("F", (9, 9), 0.5), "tiff"), "32-bit float: nobody says which value is white"),
    "headless.png": (b"\x89PNG\r\n\x1a\n", "no image that Pillow can read"),
    "page.webp": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no image that Pillow can read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_says_why(name):
    with pytest.raises(Unreadable) as caught: decode_image(BROKEN[name][0], 8)
    assert str(caught.value).startswith(BROKEN[name][1])


def test_broken_files_are_refused_together_or_skipped(tmp_path):
    fill(tmp_path, cat=6, dog=6)
    for name, (content, _) in BROKEN.items(): (tmp_path / "cat" / name).write_bytes(content)
    (tmp_path / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    first, *lines = refused(ask(tmp_path)).splitlines()
    assert first.endswith("images that cannot be read: 8 of 20")
    assert (lines[0].startswith("cat/bomb.png: too many pixels") and lines[1] == "cat/empty.png: empty"
        and len(lines) == 7 and lines[5:] == ["... and 3 more", "leave them out: --set dataset.broken=skip"])
    assert goes_on(ask(tmp_path)) == 1
    data, notes = read_dataset(ask(tmp_path, broken="skip"))
    assert len(data.y) == 12 and notes[0].startswith("images skipped that cannot be read: 8 (cat/bomb.png: ")
    lines = refused(ask(fill(tmp_path / "rest", a=3, b=3), broken="skip", classes=("b", "c"))).splitlines()
    assert len(lines) == 1 and "unknown class 'c'" in lines[0]
    for file in (tmp_path / "rest/a").iterdir(): file.write_bytes(b"")
    assert "class 'a' has 0 images in train, 0 in val, 0 in test" in refused(ask(tmp_path / "rest", broken="skip"))


# ---- folders

def test_odd_files_in_folders(tmp_path):
    fill(tmp_path, cat__deep=3, dog=3, **{".hidden": 3})
    shutil.copy(tmp_path / "dog/00.png", tmp_path / "loose.png")
    for name in (".DS_Store", "Thumbs.db", "features.h5", "figure.eps"): (tmp_path / "dog" / name).write_bytes(b"x")
    (tmp_path / "dog/00.png").rename(tmp_path / "dog/00.JPG")  # a PNG with a wrong suffix
    (tmp_path / "cat/deep/loop").symlink_to(tmp_path / "cat")
    os.mkfifo(tmp_path / "dog/pipe.png")
    data, notes = read_dataset(ask(tmp_path))
    assert data.classes == ("cat", "dog") and len(data.y) == 6 and data.x.shape[1] == 1
    assert notes == ["images in no class folder, ignored: 1 (loose.png)",
                     "files that are no images, ignored: 3 (dog/Thumbs.db, dog/features.h5, dog/figure.eps)"]


def test_part_folders_by_all_their_names(tmp_path):
    fill(tmp_path, Train__cat=4, Train__dog=4, valid__cat=2, Testing__cat=2, Testing__dog=2)
    data, _ = read_dataset(ask(tmp_path))
    assert ([np.bincount(data.y[data.part(p)], minlength=2).tolist() for p in ("train", "val", "test")]
        == [[4, 4], [2, 0], [2, 2]])


def test_classes_may_be_called_train_and_test(tmp_path):
    assert read_dataset(ask(fill(tmp_path, train=4, test=4, bus=4)))[0].classes == ("bus", "test", "train")


def test_links_to_folders_are_followed(tmp_path):
    fill(tmp_path / "elsewhere", cats=4)
    fill(tmp_path / "here", dog=4)
    (tmp_path / "here/cat").symlink_to(tmp_path / "elsewhere/cats")
    assert read_dataset(ask(tmp_path / "here"))[0].classes == ("cat", "dog")


@pytest.mark.parametrize("classes, options, error", [
    ({"cat": 4}, {}, "classes cat; allowed: two or more, each once"),
    ({"cat": 4, "dog": 2}, {}, "class 'dog' has 2 images to split; at least 3 are needed: add images"),
    ({"cat": 4, "dog": 4}, {"classes": ("cat", "dgo")}, "unknown class 'dgo'; did you mean 'dog'? allowed: cat, dog"),
    ({"cat": 4, "dog": 4}, {"classes": ("cat", "cat")}, "classes cat, cat; allowed: two or more, each once"),
    ({"cat": 4, "dog": 4}, {"split": "own"}, "split: own needs a part train, found no parts"),
    ({"test__cat": 4, "test__dog": 4}, {}, "split: own needs a part train, found test"),
    ({"train__cat": 4, "train__dog": 4, "test__cat": 4}, {}, "class 'dog' has 3 images in train, 1 in val, 0 in test"),
    ({"train__cat": 4, "train__dog": 4, "extra__cat": 4}, {},
    "extra beside train; allowed: folders train, val, test that hold a folder for each class"),
    ({}, {}, "no images found; expected DIR/<class>/<image>, or DIR/train/<class>/<image>"),
])
def test_refused_folders(tmp_path, classes, options, error):
    message = refused(ask(fill(tmp_path, **classes), **options))
    assert error in message and "\n" not in message and str(tmp_path) in message


@pytest.mark.parametrize("classes, options, ways", [
    ({"cat": 4, "red fox": 4, "dog": 2}, {}, ["classes"]),
    ({"cat": 4, "cow": 1, "dog": 2}, {}, []),
    ({"train__cat": 4, "train__dog": 4, "train__owl": 4, "test__cat": 4, "test__owl": 1}, {}, ["classes"]),
    ({"cat": 4, "dog": 4}, {"split": "own"}, ["split"]),
    ({"test__cat": 4, "test__dog": 4}, {}, ["split"]),
])
def test_what_a_refusal_offers_works(tmp_path, classes, options, ways):
    images = ask(fill(tmp_path, **classes), **options)
    assert [name for way in offers(refused(images)) for name in way] == ways and goes_on(images) == len(ways)


def test_another_column_of_labels_is_offered(tmp_path):
    cells = [{"bytes": encoded(i, "png")} for i in plain(8)]
    pq.write_table(pa.table({"image": cells, "label": [0.5] * 8, "kind": ["cat", "dog"] * 4}), tmp_path / "a.parquet")
    assert goes_on(ask(f"parquet:{tmp_path}")) == 1 and "label 0.5" in refused(ask(f"parquet:{tmp_path}"))
    assert list(offers(refused(ask(f"parquet:{tmp_path}", label="kinds")))) == [{"label": "kind"}]


def test_no_such_place(tmp_path):
    assert "there is no " in refused(ask(tmp_path / "absent"))
    (tmp_path / "file").touch()
    assert "is a file; allowed: a folder" in refused(ask(tmp_path / "file"))
    plain(1)[0].save(tmp_path / "a.png")
    assert "no images found but 1 without a class folder" in refused(ask(tmp_path))


# ---- splits, subsampling, colour, duplicates

def test_random_splits_do_not_depend_on_where_or_when(tmp_path):
    fill(tmp_path / "a", cat=20, dog=20)
    shutil.copytree(tmp_path / "a/dog", tmp_path / "b/dog")
    shutil.copytree(tmp_path / "a/cat", tmp_path / "b/cat")
    one, two = (read_dataset(ask(tmp_path / name))[0] for name in "ab")
    assert (one.x == two.x).all() and (one.split == two.split).all() and len(set(one.split[:10])) > 1
    swapped = read_dataset(ask(tmp_path / "a", classes=("dog", "cat")))[0]
    assert (swapped.classes == ("dog", "cat") and (swapped.x == one.x).all() and (swapped.y == 1 - one.y).all()
        and (swapped.split == one.split).all())
    assert read_dataset(ask(tmp_path / "a", split="order"))[0].split[:20].tolist() == [0] * 10 + [1] * 3 + [2] * 7


def test_subsampling_keeps_to_its_part(tmp_path):
    fill(tmp_path, cat=20, dog=20)
    whole, few = (read_dataset(ask(tmp_path, per_class=limit))[0] for limit in ({}, {"train": 3, "val": 1, "test": 2}))
    assert [np.bincount(few.y[few.part(p)]).tolist() for p in ("train", "val", "test")] == [[3, 3], [1, 1], [2, 2]]
    for part in ("train", "val", "test"):
        assert {i.tobytes() for i in few.x[few.part(part)]} <= {i.tobytes() for i in whole.x[whole.part(part)]}


def test_unused_images_are_not_decoded(tmp_path):
    fill(tmp_path, train__cat=3, train__dog=3, test__cat=5, test__dog=5)
    limits = {"train": 1, "test": 1}
    data, _ = read_dataset(ask(tmp_path, per_class=limits))
    used = {i.tobytes() for i in data.x}
    unused = [f for f in tmp_path.rglob("*.png") if decode_image(f, 8).x.tobytes() not in used]
    for file in unused: file.write_bytes(b"")
    assert len(unused) > 5 and (read_dataset(ask(tmp_path, per_class=limits))[0].x == data.x).all()


def test_colour(tmp_path):
    fill(tmp_path, cat=4, dog=4)
    Image.open(tmp_path / "cat/00.png").convert("RGB").save(tmp_path / "cat/00.png")
    assert read_dataset(ask(tmp_path))[0].x.shape[1] == 1, "R = G = B is grey"
    assert (read_dataset(ask(tmp_path, colour="rgb"))[0].x == read_dataset(ask(tmp_path))[0].x).all()
    Image.new("RGB", (8, 8), RED).save(tmp_path / "cat/00.png")
    assert read_dataset(ask(tmp_path))[0].x.shape[1] == 3
    assert (read_dataset(ask(tmp_path, colour="grey"))[0].x[0] == 76).all(), "0.299 of red (ITU-R BT.601)"


def test_small_and_wide_images(tmp_path):
    fill(tmp_path, cat=4, dog=4)
    halves(RED, BLUE, size=64).resize((128, 64)).crop((32, 0, 128, 64)).save(tmp_path / "cat/00.png")
    data, notes = read_dataset(ask(tmp_path, size=16))
    assert notes == ["images smaller than 16 pixels, enlarged: 7"]
    assert data.x[0, :, 8, 1].tolist() == [255, 0, 0] and data.x[0, :, 8, -2].tolist() == [0, 0, 255]


def test_copies_in_two_parts(tmp_path):
    fill(tmp_path, train__cat=12, train__dog=12, val__cat=3, test__dog=2, test__cat=2)
    for i in range(7): shutil.copy(tmp_path / f"train/cat/{i:02}.png", tmp_path / f"test/cat/copy{i}.png")
    shutil.copy(tmp_path / "val/cat/00.png", tmp_path / "test/cat/copy.png")
    first, *lines = refused(ask(tmp_path)).splitlines()
    assert first.endswith("two parts: 8") and lines[-1] == (
        "keep them: --set dataset.duplicates=allow; take them from train (or val): --set dataset.duplicates=drop")
    assert (len(lines) == 7 and lines[1] == "test/cat/copy0.png (test) = train/cat/00.png (train)"
        and lines[-2] == "... and 3 more")
    assert goes_on(ask(tmp_path)) == 2
    data, notes = read_dataset(ask(tmp_path, duplicates="drop"))
    assert [len(data.part(p)) for p in ("train", "val", "test")] == [17, 2, 12] and "8, 8 copies dropped" in notes[-1]
    assert len(read_dataset(ask(tmp_path, duplicates="allow"))[0].y) == 39


def test_a_part_that_loses_all_images_can_be_drawn_anew(tmp_path):
    fill(tmp_path, train__cat=6, train__dog=6, test__cat=2, test__dog=2)
    (tmp_path / "val/cat").mkdir(parents=True)
    shutil.copy(tmp_path / "test/cat/00.png", tmp_path / "val/cat/copy.png")
    assert "no images in val" in refused(ask(tmp_path, duplicates="drop"))
    assert goes_on(ask(tmp_path, duplicates="drop")) == 1


def test_copies_stay_together_where_parts_are_made(tmp_path):
    fill(tmp_path, cat=20, dog=20)
    for i in range(20): shutil.copy(tmp_path / f"cat/{i:02}.png", tmp_path / f"cat/again{i:02}.png")
    shutil.copy(tmp_path / "cat/03.png", tmp_path / "dog/03 again.png")
    data, notes = read_dataset(ask(tmp_path, per_class={"train": 8}))
    parts = {}
    for image, part in zip(data.x, data.split): parts.setdefault(image.tobytes(), set()).add(int(part))
    assert all(len(p) == 1 for p in parts.values()) and len(parts) < len(data.y)
    assert np.bincount(data.y[data.part("train")]).max() <= 8
    assert any(n.startswith("the same picture with two labels: cat/03.png (cat) = ")
        for n in read_dataset(ask(tmp_path))[1])


# ---- identity

def test_content_decides_the_key(tmp_path):
    known = source_identity(ask(fill(tmp_path / "a", cat=3, dog=3)))
    shutil.copytree(tmp_path / "a", tmp_path / "far/b")
    assert source_identity(ask(tmp_path / "far/b")) == known and set(known) == {"kind", "sha256"}
    (tmp_path / "far/b/cat/notes.txt").write_text("no image")
    assert source_identity(ask(tmp_path / "far/b")) == known
    content = bytearray((tmp_path / "far/b/cat/00.png").read_bytes())
    content[-1] ^= 1
    (tmp_path / "far/b/cat/00.png").write_bytes(content)
    assert source_identity(ask(tmp_path / "far/b")) != known
    (tmp_path / "a/cat/00.png").rename(tmp_path / "a/dog/zz.png")
    assert source_identity(ask(tmp_path / "a")) != known


def test_remembered_hashes_need_no_reading(tmp_path, monkeypatch):
    fill(tmp_path / "a", cat=3, dog=3)
    for file in (tmp_path / "a").rglob("*.png"): os.utime(file, (1, 1))
    known = source_identity(ask(tmp_path / "a"), tmp_path / "memory")
    with monkeypatch.context() as patched:
        patched.setattr("synthnb.data.external_images._sha256", lambda path: pytest.fail(f"{path} was read"))
        assert source_identity(ask(tmp_path / "a"), tmp_path / "memory") == known
    os.utime(tmp_path / "a/cat/00.png", (2, 2))
    assert source_identity(ask(tmp_path / "a"), tmp_path / "memory") == known, "touched, not changed"
    (tmp_path / "a/cat/00.png").write_bytes(b"")
    assert source_identity(ask(tmp_path / "a"), tmp_path / "memory") != known
    with pytest.raises(BadInput, match="there is no"): source_identity(ask(tmp_path / "absent"), tmp_path / "memory")


def test_other_identities(tmp_path):
    assert source_identity(ask("torchvision:MNIST")) == {"kind": "torchvision", "name": "MNIST"}
    assert (source_identity(ask("hub:some/where", revision="v1"))
        == {"kind": "hub", "name": "some/where", "config": None, "revision": "v1"})
    with pytest.raises(BadInput, match="torchvision:mnist: unknown; did you mean 'MNIST'"):
        source_identity(ask("torchvision:mnist"))
    fill(tmp_path, cat=3, dog=3)
    assert set(source_identity(ask(f"hub:{tmp_path}"))) == {"kind", "sha256", "config", "revision"}


# ---- parquet

def table(path, labels, first=0, names=None, column="label", picture="image", images=None):
    "A parquet file in the layout of the `datasets` library, in row groups of four."
    images = images or plain(len(labels), first)
    cells = [i if not isinstance(i, Image.Image) else {"bytes": encoded(i, "png"), "path": "x.png"} for i in images]
    rows = pa.table({picture: cells, column: labels})
    said = {picture: {"_type": "Image"}, column: {"_type": "ClassLabel", "names": names}}
    if names: rows = rows.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": said}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, row_group_size=4)


def test_parquet_with_names_and_parts(tmp_path):
    table(tmp_path / "data/train-00000-of-00002.parquet", [0, 1] * 5, 1, ["cat", "dog"])
    table(tmp_path / "data/train-00001-of-00002.parquet", [1, 0] * 5, 2, ["cat", "dog"])
    table(tmp_path / "data/test-00000-of-00001.parquet", [0, 1, 1], 3, ["cat", "dog"])
    data, notes = read_dataset(ask(f"parquet:{tmp_path}"))
    assert data.classes == ("cat", "dog") and notes == [] and np.bincount(data.split).tolist() == [18, 2, 3]
    assert ((data.x[0, 0] == np.asarray(plain(3, 3)[0])).all() and data.y[:3].tolist()
        == [0, 1, 1]), "rows as they lie, files by name"
    assert (data.x[13 + 5, 0] == np.asarray(plain(10, 2)[5])).all()
    table(tmp_path / "data/extra.parquet", [0, 1], 4, ["cat", "dog"])
    assert (read_dataset(ask(f"parquet:{tmp_path}"))[1]
        == ["images in none of train, val, test, ignored: 2 (data/extra.parquet row 0, data/extra.parquet row 1)"])


def test_one_parquet_file_with_other_labels(tmp_path):
    table(tmp_path / "all.parquet", ["b", "a"] * 5, column="kind", picture="img")
    assert read_dataset(ask(f"parquet:{tmp_path / 'all.parquet'}", label="kind"))[0].classes == ("a", "b")
    table(tmp_path / "all.parquet", [10, 2] * 5)
    assert read_dataset(ask(f"parquet:{tmp_path / 'all.parquet'}"))[0].classes == ("2", "10")
    table(tmp_path / "all.parquet", [10, 2] * 5, images=[encoded(i, "png") for i in plain(10)])
    assert read_dataset(ask(f"parquet:{tmp_path / 'all.parquet'}"))[0].classes == ("2", "10"), "plain bytes"
    known = source_identity(ask(f"parquet:{tmp_path / 'all.parquet'}"))
    (tmp_path / "moved").mkdir()
    (tmp_path / "all.parquet").rename(tmp_path / "moved/all.parquet")
    assert source_identity(ask(f"parquet:{tmp_path / 'moved/all.parquet'}")) == known


@pytest.mark.parametrize("labels, names, error", [
    ([0, 1, -1], ["cat", "dog"],
    "train.parquet row 2: label -1; allowed: 0 to 1 (cat to dog); a part with hidden labels cannot be used"),
    ([0, 1, 2], ["cat", "dog"], "train.parquet row 2: label 2; allowed: 0 to 1 (cat to dog)"),
    ([0, None, 1], ["cat", "dog"], "train.parquet row 1: label None; allowed: 0 to 1"),
    ([0.5, 1.5], None, "train.parquet row 0: label 0.5; allowed: strings, or numbers from 0"),
    ([0, 0, 0], None, "classes 0; allowed: two or more"),
    ([], ["cat", "dog"], "no images in it"),
])
def test_refused_labels(tmp_path, labels, names, error):
    if not labels: table(tmp_path / "train.parquet", [0], names=names, images=[b""])
    else: table(tmp_path / "train.parquet", labels, names=names)
    if not labels: pq.write_table(pq.read_table(tmp_path / "train.parquet").slice(0, 0), tmp_path / "train.parquet")
    assert error in refused(ask(f"parquet:{tmp_path}"))


def test_refused_parquet(tmp_path):
    assert "no parquet files found; expected" in refused(ask(f"parquet:{tmp_path}"))
    table(tmp_path / "train.parquet", [0, 1] * 4, names=["cat", "dog"], column="kind")
    assert "no column 'kinds' for the option `label`; did you mean 'kind'? allowed: kind" in refused(
        ask(f"parquet:{tmp_path}", label="kinds"))
    table(tmp_path / "test.parquet", [0, 1] * 4, names=["dog", "cat"], column="kind")
    assert "train.parquet has other columns or class names than test.parquet" in refused(
        ask(f"parquet:{tmp_path}", label="kind"))
    (tmp_path / "test.parquet").write_bytes((tmp_path / "train.parquet").read_bytes()[:-9])
    assert "test.parquet: not a whole parquet file" in refused(ask(f"parquet:{tmp_path}"))
    pq.write_table(pa.table({"label": [0, 1]}), tmp_path / "test.parquet")
    assert "no column holds images; columns: label" in refused(ask(f"parquet:{tmp_path}"))
    (tmp_path / "train.parquet").unlink()
    cells = [{"bytes": encoded(i, "png"), "path": "x.png"} for i in plain(6)]
    table(tmp_path / "test.parquet", [0, 1] * 3, images=[{"bytes": None, "path": "gone.png"}, *cells[1:]])
    assert "test.parquet row 0: the table holds no bytes for it" in refused(ask(f"parquet:{tmp_path}", split="order"))


# ---- hub and torchvision, without network

@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    "The hub's library keeps what it prepared: here, for one test."
    import datasets
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_hub_reads_local_folders(tmp_path, no_cache):
    fill(tmp_path / "pets", train__cat=8, train__dog=8, test__cat=2, test__dog=2)
    data, notes = read_dataset(ask(f"hub:{tmp_path / 'pets'}"))
    assert data.classes == ("cat", "dog") and len(data.part("test")) == 4 and not any("revision" in n for n in notes)
    same = read_dataset(ask(tmp_path / "pets"))[0]
    assert sorted(i.tobytes() for i in data.x) == sorted(i.tobytes() for i in same.x)


def test_hub_reads_local_parquet(tmp_path, no_cache):
    table(tmp_path / "pets/data/train-0.parquet", [0, 1] * 5, 1, ["cat", "dog"], column="fine", picture="img")
    assert read_dataset(ask(f"hub:{tmp_path / 'pets'}"))[0].classes == ("cat", "dog"), "the only column of class labels"
    assert "no column 'coarse' for the option `label`" in refused(ask(f"hub:{tmp_path / 'pets'}", label="coarse"))


def test_hub_without_network(no_cache):
    message = refused(ask("hub:nobody/nothing"))
    assert (message.startswith("hub:nobody/nothing: cannot be had (") and "or a local folder as hub:DIR" in message
        and "\n" not in message)


def idx(path, array):
    "A file of MNIST."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes())


def test_torchvision_with_parts_by_train(monkeypatch, tmp_path):
    monkeypatch.setenv("SYNTHNB_HOME", str(tmp_path))
    draw = np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 20)):
        idx(store_root() / f"downloads/MNIST/raw/{part}-images-idx3-ubyte",
            draw.integers(0, 255, (n, 28, 28), np.uint8))
        idx(store_root() / f"downloads/MNIST/raw/{part}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % 10)
    data, _ = read_dataset(ask("torchvision:MNIST", size=28))
    assert (data.classes[0] == "0 - zero" and np.bincount(data.split).tolist() == [50, 10, 20]
        and data.x.shape == (80, 1, 28, 28))


def test_torchvision_without_parts_shows_files_as_we_do(monkeypatch, tmp_path):
    monkeypatch.setenv("SYNTHNB_HOME", str(tmp_path))
    fill(store_root() / "downloads/eurosat/2750", Forest=4, River=4)
    halves((*RED, 0), (*BLUE, 255), "RGBA").save(store_root() / "downloads/eurosat/2750/Forest/00.png")
    data, _ = read_dataset(ask("torchvision:EuroSAT"))
    assert data.classes == ("Forest", "River") and data.x[0, :, 4, 1].tolist() == [255, 255, 255], "over white"


def test_torchvision_without_network(monkeypatch, tmp_path):
    monkeypatch.setenv("SYNTHNB_HOME", str(tmp_path))
    for name in ("CIFAR10", "Flowers102"):
        message = refused(ask(f"torchvision:{name}"))
        assert (message.startswith(f"torchvision:{name}: cannot be had (") and "needs network once" in message
            and "\n" not in message)
    assert "torchvision:ImageFoldr: unknown; did you mean 'ImageFolder'" in refused(ask("torchvision:ImageFoldr"))


# ---- a function of the user's own

def test_own_function(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.environ["PYTHONPATH"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    add_module_folders(tmp_path)
    (tmp_path / "own_images.py").write_text(
        "import numpy as np\nfrom PIL import Image\n"
        "def pairs(): return [(np.full((8, 8), 10 * i, np.uint8), 'odd' if i % 2 else 'even') for i in range(20)]\n"
        "def parts(): return {'train': pairs()[:16], 'test': [(Image.fromarray(a), c) for a, c in pairs()[16:]]}\n"
        "def floats(): return [(np.zeros((8, 8)), 'a'), (np.zeros((8, 8)), 'b')] * 3\n"
        "def wrong(): return [np.zeros((8, 8))]\n"
        "def fails(): raise ValueError('no disk')\n"
        "def nothing(): return []\n")
    data, _ = read_dataset(ask("own_images:pairs"))
    assert data.classes == ("even", "odd") and data.x[3, 0, 0, 0] == 30
    assert np.bincount(read_dataset(ask("own_images:parts"))[0].split).tolist() == [14, 2, 4]
    for name, error in (("floats", "all item 0: an array of float64 (8, 8); allowed: uint8 (H, W) or (H, W, 3)"),
        ("fails", "failed: ValueError: no disk"),
                        ("wrong", "allowed: pairs (image, class name)"), ("nothing", "no images in it"),
                        ("pair", "did you mean 'pairs'")):
        assert error in refused(ask(f"own_images:{name}"))
    known = source_identity(ask("own_images:pairs"))
    assert known["kind"] == "own" and set(known) == {"kind", "name", "code"}
    with open(tmp_path / "own_images.py", "a") as f: f.write("# changed\n")
    assert source_identity(ask("own_images:pairs")) != known


# ---- real data

def real(name):
    if not (REAL / name).is_dir():
        pytest.skip(f"the real data set {name} is not there: {REAL.name}/{name} beside the checkout's folder shared")
    return f"parquet:{REAL / name}"


def test_fashion_mnist():
    data, notes = read_dataset(ask(real("fashion_mnist"), size=28, per_class={"train": 20, "val": 20, "test": 20}))
    assert data.x.shape == (600, 1, 28, 28) and data.classes[:2] == ("T-shirt/top", "Trouser") and notes == []
    assert all((np.bincount(data.y[data.part(p)]) == 20).all() for p in ("train", "val", "test"))
    assert 60 < data.x.mean() < 85, "0.286 of white over all of it"


def test_grocery_fruit():
    data, notes = read_dataset(ask(real("grocery"), size=32, classes=FRUIT))
    assert (np.bincount(data.split).tolist() == [521, 37, 508] and data.x.shape == (1066, 3, 32, 32)
        and data.classes == FRUIT and notes == [])
    assert len(read_dataset(ask(real("grocery"), label="coarse_label"))[0].classes) == 43


def test_paths_in_messages_are_the_users(tmp_path):
    fill(Path(tmp_path), cat=4, dog=4)
    (tmp_path / "cat/00.png").write_bytes(b"")
    assert refused(ask(tmp_path)).splitlines()[1] == "cat/00.png: empty"
