use std::collections::BTreeMap;

use super::*;

fn build(sprites: &Sprites, seed: u64, size: usize, scenes: usize) -> Vec<TaskCorpus> {
    build_tasks(sprites, None, seed, size, scenes).unwrap()
}

#[test]
fn text_alone_gives_nothing_away() {
    for split in build(&Sprites::embedded().unwrap(), 1, 32, 30) {
        let mut labels: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for entry in split.nlvr.iter().chain(&split.ve) {
            let sentence = entry["sentence"].as_str().unwrap().to_owned();
            labels.entry(sentence).or_default().push(entry["label"].to_string());
        }
        for (sentence, labels) in labels {
            let count = |l: &String| labels.iter().filter(|o| *o == l).count();
            assert!(labels.iter().all(|l| count(l) == count(&labels[0])), "{sentence}");
        }
        let said = |answer: &str| split.vqa.iter().filter(|q| q["answer"][0] == answer).count();
        assert_eq!(said("yes"), said("no"));
    }
}

/// One concept in one flat colour, so that two images of it share a colour.
fn flat_concepts(folder: &Path) -> Sprites {
    for i in 0..13_u8 {
        let mut cut_out =
            image::RgbaImage::from_pixel(8, 8, image::Rgba([i * 19, 7, 255 - i * 19, 255]));
        cut_out.put_pixel(0, 0, image::Rgba([0, 0, 0, 0]));
        cut_out.save(folder.join(format!("thing-{i}.png"))).unwrap();
    }
    Sprites::from_folder(folder, None).unwrap().0
}

#[test]
fn images_alone_give_nothing_away() {
    let folder = tempfile::tempdir().unwrap();
    let splits = build(&flat_concepts(folder.path()), 2, 32, 30);
    for split in &splits {
        let images: BTreeMap<_, _> =
            split.images.iter().map(|(name, image)| (name.as_str(), image)).collect();
        let of = |file: &Value| images[file.as_str().unwrap()];
        // The edges of the art are blended; its inside is not.
        let colour = |image: &RgbImage| {
            let mut seen: BTreeMap<&[u8], usize> = BTreeMap::new();
            let art = image.pixels.chunks_exact(3).filter(|p| p[1] == 7);
            art.for_each(|p| *seen.entry(p).or_default() += 1);
            seen.into_iter().max_by_key(|(_, n)| *n).unwrap().0.to_vec()
        };
        let mut equal = BTreeMap::new();
        for entry in &split.nlvr {
            let same = colour(of(&entry["images"][0])) == colour(of(&entry["images"][1]));
            *equal.entry((same, entry["label"].to_string())).or_insert(0) += 1;
        }
        for same in [true, false] {
            let count = |label: &str| equal[&(same, format!("\"{label}\""))];
            assert_eq!(count("True"), count("False"), "{}, same: {same}", split.name);
        }
        let mut curtains = BTreeMap::new();
        for entry in &split.ve {
            let image = of(&entry["image"]);
            let row = &image.pixels[..image.width * 3];
            let sides = [&row[..3], &row[row.len() - 3..]].map(|pixel| pixel == CURTAIN);
            assert_ne!(sides[0], sides[1], "one half is hidden");
            *curtains.entry((sides[0], entry["label"].to_string())).or_insert(0) += 1;
        }
        let one = curtains.values().next().unwrap();
        assert!(curtains.len() == 6 && curtains.values().all(|n| n == one), "{curtains:?}");
    }
}

#[test]
fn concepts_of_their_own_split_are_nowhere_else() {
    let (sprites, others) = Sprites::embedded().unwrap().choose(Some(24), 3).unwrap();
    let others = others.unwrap();
    let splits = build_tasks(&sprites, Some(&others), 3, 16, 20).unwrap();
    let (last, rest) = splits.split_last().unwrap();
    assert_eq!(last.name, "concept");
    let named = |split: &TaskCorpus| -> BTreeSet<String> {
        split.grounding.iter().map(|e| e["text"].to_string()).collect()
    };
    assert!(rest.iter().all(|split| named(split).is_disjoint(&named(last))));
    let folder = tempfile::tempdir().unwrap();
    write_tasks(&splits, folder.path()).unwrap();
    let answers = |name: &str| -> BTreeSet<String> {
        serde_json::from_str(&fs::read_to_string(folder.path().join(name)).unwrap()).unwrap()
    };
    let shared: Vec<String> =
        answers("answers.json").intersection(&answers("concept_answers.json")).cloned().collect();
    assert_eq!(shared, ["no", "yes"]);
}

#[test]
fn few_concepts_still_give_every_task() {
    let sprites = Sprites::embedded().unwrap().choose(Some(12), 5).unwrap().0;
    for split in build(&sprites, 5, 32, 20) {
        let names: std::collections::BTreeSet<_> =
            split.grounding.iter().map(|e| e["text"].to_string()).collect();
        assert!(names.len() <= 12 && names.len() > 4, "{}", split.name);
        assert_eq!(split.grounding.len() % 4, 0);
    }
    assert!(Sprites::embedded().unwrap().choose(Some(11), 5).is_err());
    assert!(Sprites::embedded().unwrap().choose(Some(161), 5).is_err());
}

#[test]
fn a_folder_of_cut_outs_serves_as_well() {
    let folder = tempfile::tempdir().unwrap();
    for (s, style) in ["plain", "round"].iter().enumerate() {
        fs::create_dir(folder.path().join(style)).unwrap();
        for i in 0..13_u8 {
            let mut cut_out = image::RgbaImage::new(20, 10 + s as u32);
            cut_out.put_pixel(3, 4, image::Rgba([i * 19, 7, 200, 255]));
            let file = folder.path().join(style).join(format!("red_thing-{i}.png"));
            if s == 0 || i < 12 {
                cut_out.save(file).unwrap();
            }
        }
    }
    fs::write(folder.path().join("plain/broken.png"), b"no image").unwrap();
    let opaque = image::RgbImage::new(4, 4);
    opaque.save(folder.path().join("round/opaque.png")).unwrap();
    let (sprites, left_out) = Sprites::from_folder(folder.path(), Some("plain")).unwrap();
    let said = left_out.join("\n");
    for part in ["broken.png", "opaque.png", "`red thing 12`: not in round"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(left_out.len(), 3);
    let splits = build(&sprites, 1, 32, 5);
    let styles: Vec<&str> = splits.iter().filter_map(|s| s.captions[0]["style"].as_str()).collect();
    assert_eq!(styles, ["round", "round", "plain"]);
    let alone = Sprites::from_folder(&folder.path().join("round"), None).unwrap().0;
    let names: Vec<_> = build(&alone, 1, 32, 5).into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["train", "val"]);
    let refused = |path: &Path, unseen| Sprites::from_folder(path, unseen).err().unwrap();
    assert!(refused(folder.path(), Some("round-")).to_string().contains("plain, round"));
    assert!(refused(&folder.path().join("round"), Some("round")).to_string().contains("held out"));
    assert!(refused(&folder.path().join("none"), None).to_string().contains("none"));
}

#[test]
fn lists_follow_all_images_and_answers_come_last() {
    let splits = build(&Sprites::embedded().unwrap(), 3, 16, 1);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("test"), "no folder").unwrap();
    assert!(write_tasks(&splits, dir.path()).is_err());
    assert!(!at("train_captions.json").exists());
    fs::remove_file(at("test")).unwrap();
    fs::create_dir_all(at("test_grounding.json/x")).unwrap();
    assert!(write_tasks(&splits, dir.path()).is_err());
    assert!(at("test_ve.json").is_file() && !at("answers.json").exists());
    fs::remove_dir_all(at("test_grounding.json")).unwrap();
    write_tasks(&splits, dir.path()).unwrap();
    let answers = fs::read_to_string(at("answers.json")).unwrap();
    assert!(serde_json::from_str::<Vec<String>>(&answers).unwrap().contains(&"yes".to_owned()));
    let names = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
    assert!(names.into_iter().all(|n| !n.to_string_lossy().ends_with(".tmp")));
}

#[test]
fn swapped_scenes_are_neighbors_that_differ_by_the_places_of_two_things() {
    for split in build(&Sprites::embedded().unwrap(), 3, 16, 12) {
        assert_eq!(split.swapped.len() % 2, 0);
        let images: BTreeMap<_, _> =
            split.images.iter().map(|(name, image)| (name.as_str(), image)).collect();
        for [one, other] in split.swapped.as_chunks::<2>().0 {
            let said = |entry: &Value, i: usize| entry["caption"][i].as_str().unwrap().to_owned();
            let reversed = |text: &str| {
                let (relation, opposite) =
                    [(" to the left of ", " to the right of "), (" above ", " below ")]
                        .into_iter()
                        .find(|(relation, _)| text.contains(relation))
                        .unwrap();
                let (a, b) = text.split_once(relation).unwrap();
                [format!("{b}{relation}{a}"), format!("{a}{opposite}{b}")]
            };
            assert_eq!([said(other, 0), said(other, 1)], reversed(&said(one, 0)));
            assert_eq!(one["style"], other["style"]);
            assert_ne!(one["image_id"], other["image_id"]);
            let of = |entry: &Value| images[entry["image"].as_str().unwrap()];
            assert_ne!(of(one), of(other));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_files() {
    let of_seed = |seed| build(&Sprites::embedded().unwrap(), seed, 32, 4);
    let (a, b) = (of_seed(3), of_seed(3));
    assert!(a.iter().zip(&b).all(|(a, b)| a.images == b.images && a.vqa == b.vqa));
    assert_ne!(a[0].images, of_seed(4)[0].images);
}
