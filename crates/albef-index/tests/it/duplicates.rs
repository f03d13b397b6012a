//! Copies and images that look alike.

use std::fs;

use albef_data::image::{ResizeOrder, RgbImage, resize_bicubic};
use albef_data::scenes::png;
use albef_index::{Control, DuplicateGroup, DuplicateOptions, duplicates};

use crate::common::{Colors, index, put};

/// A drawing with structure, so that hashes of brightness mean something.
fn drawing(seed: usize) -> RgbImage {
    let mut image = RgbImage::filled(96, 72, [0; 3]);
    for y in 0..72 {
        for x in 0..96 {
            let v = ((x / 11 * (seed * 5 + 3) + y / 13 * (seed * 7 + 1)) * 37 % 256) as u8;
            image.pixels[(y * 96 + x) * 3..][..3].copy_from_slice(&[v, 255 - v, v / 2]);
        }
    }
    image
}

fn names(group: &DuplicateGroup) -> (String, Vec<String>) {
    let name = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    (name(&group.keep.image.path), group.others.iter().map(|r| name(&r.image.path)).collect())
}

#[test]
fn groups_of_copies_and_of_what_looks_alike() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    put(&photos, "other.png", 77);
    for seed in 1..4 {
        let image = drawing(seed);
        fs::write(photos.join(format!("{seed}.png")), png(&image).unwrap()).unwrap();
        if seed == 1 {
            fs::copy(photos.join("1.png"), photos.join("copy of 1.png")).unwrap();
            let small = resize_bicubic(&image, 48, 36, ResizeOrder::default());
            fs::write(photos.join("small 1.png"), png(&small).unwrap()).unwrap();
        }
    }
    let (store, _) = index(&folder, &photos, &Colors::default());
    let find = |options| duplicates(&store, &options, &Control::new()).unwrap();
    let exact = find(DuplicateOptions::default());
    assert_eq!(exact.len(), 1);
    assert!(exact[0].exact);
    let near = find(DuplicateOptions { bits: Some(6), ..DuplicateOptions::default() });
    assert_eq!(near.len(), 1, "{:?}", near.iter().map(names).collect::<Vec<_>>());
    let (keep, others) = names(&near[0]);
    // The largest is kept; of two of one size the older, or the one with the lower number.
    assert!(["1.png", "copy of 1.png"].contains(&keep.as_str()), "{keep}");
    assert_eq!((others.len(), others[1].as_str(), near[0].exact), (2, "small 1.png", false));
    let by_cosine = find(DuplicateOptions { cosine: Some(0.999), ..DuplicateOptions::default() });
    assert_eq!(names(&by_cosine[0]), (keep, others));
    // However far hashes may be apart, what looks different is none.
    let far = find(DuplicateOptions { bits: Some(64), ..DuplicateOptions::default() });
    assert_eq!(far, near);
}

#[test]
fn drawings_on_a_white_ground_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    fs::create_dir_all(&photos).unwrap();
    for i in 0..20 {
        let mut image = RgbImage::filled(96, 96, [255; 3]);
        let (left, top) = (12 * (i % 5) + 15, 12 * (i / 5) + 15);
        for y in top..top + 8 {
            image.pixels[(y * 96 + left) * 3..][..8 * 3].fill(0);
        }
        fs::write(photos.join(format!("{i}.png")), png(&image).unwrap()).unwrap();
    }
    let (store, _) = index(&folder, &photos, &Colors::default());
    for bits in [6, 64] {
        let near = DuplicateOptions { bits: Some(bits), cosine: None };
        assert_eq!(duplicates(&store, &near, &Control::new()).unwrap(), []);
    }
}

#[test]
fn a_chain_of_likeness_is_no_group() {
    // Colors whose neighbors are alike and whose ends are not: each group is around an image that all of it is like.
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    fs::create_dir_all(&photos).unwrap();
    for i in 0..12_u8 {
        let image = RgbImage::filled(16, 16, [i * 20, 220 - i * 20, 60]);
        fs::write(photos.join(format!("{i}.png")), png(&image).unwrap()).unwrap();
    }
    let (store, _) = index(&folder, &photos, &Colors::default());
    let options = DuplicateOptions { bits: Some(0), cosine: None };
    let groups = duplicates(&store, &options, &Control::new()).unwrap();
    assert!(groups.len() >= 3, "{} groups of 12 images", groups.len());
    assert!(groups.iter().all(|group| group.others.len() <= 2));
}

#[test]
fn every_pair_of_near_hashes_is_found() {
    // Many images of few kinds: the tiles of the comparison are crossed.
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    for i in 0..300_u64 {
        let mut image = drawing((i % 3) as usize + 1);
        image.pixels[(i / 3) as usize * 3] ^= 1;
        fs::create_dir_all(&photos).unwrap();
        fs::write(photos.join(format!("{i}.png")), png(&image).unwrap()).unwrap();
    }
    let (store, _) = index(&folder, &photos, &Colors::default());
    for options in [
        DuplicateOptions { cosine: Some(0.9995), bits: None },
        DuplicateOptions { cosine: None, bits: Some(3) },
    ] {
        let groups = duplicates(&store, &options, &Control::new()).unwrap();
        let sizes: Vec<usize> = groups.iter().map(|g| g.others.len() + 1).collect();
        assert_eq!(sizes, [100, 100, 100], "{options:?}");
    }
}
