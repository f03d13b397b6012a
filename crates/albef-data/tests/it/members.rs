//! Members of shards that are not read, and images that shards hold several times.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use albef_data::dataset::{copied_members, read_source};
use tempfile::tempdir;

use crate::dataset_promises::{image_bytes, put, spec, tar_of};
use crate::downloads::{expected, read};

/// A member that is stored as the header says.
fn append(archive: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    if kind == tar::EntryType::GNUSparse {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.realsize = *b"00000002000\0";
        gnu.sparse[0].offset = *b"00000000000\0";
        gnu.sparse[0].numbytes = format!("{:011o}\0", bytes.len()).as_bytes().try_into().unwrap();
        gnu.sparse[1].offset = *b"00000002000\0";
        gnu.sparse[1].numbytes = *b"00000000000\0";
    }
    archive.append_data(&mut header, name, bytes).unwrap();
}

#[test]
fn members_whose_content_is_not_read_are_named() {
    use tar::EntryType as Kind;

    let dir = tempdir().unwrap();
    let image = image_bytes(1);
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, Kind::GNUSparse, "0.png", &image[..64]);
    append(&mut archive, Kind::Regular, "0.txt", b"sparse");
    let map = [b"1\n0\n64\n".as_slice(), &[0; 505], &image[..64]].concat();
    let pax = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.name", b"1.png")];
    archive.append_pax_extensions(pax).unwrap();
    append(&mut archive, Kind::Regular, "GNUSparseFile.7/1.png", &map);
    append(&mut archive, Kind::Regular, "1.txt", b"sparse as well");
    append(&mut archive, Kind::Regular, "2.png", &image);
    append(&mut archive, Kind::GNUSparse, "2.txt", b"lost");
    append(&mut archive, Kind::Continuous, "3.png", &image);
    append(&mut archive, Kind::Regular, "3.txt", b"all in one piece");
    append(&mut archive, Kind::Fifo, "4.png", b"");
    append(&mut archive, Kind::Directory, "5.png/", b"");
    put(&dir, "s.tar", archive.into_inner().unwrap());
    let (found, said) = read(&dir, "s.tar");
    assert_eq!(found, expected(&[("2.png", &[]), ("3.png", &["all in one piece"])]));
    for part in [
        "s.tar: 0.png: it is stored as a sparse file",
        "s.tar: 1.png: it is stored as a sparse file",
        "s.tar: 2.txt: ",
        "s.tar: 4.png: it is no file but a member of the kind `6`",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert_eq!(said.lines().count(), 4, "{said}");
    put(&dir, "t.tar", tar_of(&[("0.png", &image), ("0.txt", b"a")]));
    assert_eq!(read(&dir, "t.tar").1, "");
}

#[test]
fn images_that_shards_hold_several_times_are_counted() {
    let dir = tempdir().unwrap();
    let (one, two) = (image_bytes(1), image_bytes(2));
    let mut other = one.clone();
    *other.last_mut().unwrap() ^= 1;
    let members: [(&str, &[u8]); 5] =
        [("0.png", &one), ("1.png", &one), ("2.png", &two), ("3.png", &other), ("4.png", &one)];
    put(&dir, "a.tar", tar_of(&members));
    put(
        &dir,
        "b.tar",
        tar_of(&[
            ("0.png", &one),
            (
                "0.json",
                br#"{"caption": ["a", "b"],
        "captions_of_entries": [1, 1]}"#,
            ),
        ]),
    );
    let count = |name: &str| {
        let samples = read_source(&spec(dir.path().join(name))).unwrap().samples;
        (samples.len(), copied_members(&samples))
    };
    assert_eq!((count("a.tar"), count("b.tar"), count("*.tar")), ((5, 2), (2, 0), (7, 3)));
    // Files are what a list says that they are.
    put(&dir, "folder/0.png", &one);
    put(&dir, "folder/1.png", &one);
    assert_eq!(count("folder"), (2, 0));
}
