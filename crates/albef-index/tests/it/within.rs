//! A part of an index shows nothing of the rest.

use albef_index::{Embedded, Encoder as _, Filter, IndexError, Store, Within, bytes_of};

use crate::common::{Colors, WIDTH, index, put, update_all};

fn matching(store: &dyn Store, filter: &Filter) -> Vec<i64> {
    let mut ids: Vec<i64> =
        store.top_k(&[0.3; WIDTH], 99, filter).unwrap().iter().map(|s| s.id).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn only_the_images_below_its_folders_exist() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    for i in 0..8 {
        put(&photos, &format!("{}/{i}.png", i % 3), i);
    }
    // The same content within and elsewhere, and a broken file in each.
    put(&photos, "1/copy.png", 0);
    put(&photos, "10/neighbor.png", 77);
    for part in ["0", "1"] {
        std::fs::write(photos.join(part).join("broken.png"), b"no image").unwrap();
    }
    let (whole, _) = index(&folder, &photos, &Colors::default());
    let mut all = Vec::new();
    whole
        .for_each(&mut |record| {
            all.push(record);
            Ok(())
        })
        .unwrap();
    let own = |path: &[u8]| path.starts_with(b"1/");
    let ids = |inside: bool| -> Vec<i64> {
        let of = all.iter().filter(|r| own(&r.image.path) == inside);
        of.map(|r| r.id).collect()
    };
    let usable: Vec<i64> =
        all.iter().filter(|r| own(&r.image.path) && r.image.status.is_ok()).map(|r| r.id).collect();
    drop(whole);
    let read = || Box::new(Embedded::read(&folder).unwrap());
    let root = std::fs::canonicalize(&photos).unwrap();
    let part = Within::new(read(), vec![root.join("1")]);

    let info = part.info().unwrap();
    assert_eq!((info.images, info.broken), (4, 1));
    assert_eq!(info, part.info().unwrap());
    assert_eq!(matching(&part, &Filter::default()), usable);
    for (inside, known) in [(true, true), (false, false)] {
        let ids = ids(inside);
        assert!(part.get(&ids).unwrap().iter().all(|found| found.is_some() == known));
    }
    assert!(part.vectors(&ids(false)).unwrap().iter().all(Option::is_none));
    assert!(part.vectors(&usable).unwrap().iter().all(Option::is_some));
    let root_id = part.roots().unwrap()[0].id;
    assert!(part.find(root_id, b"1/1.png").unwrap().is_some());
    assert!(part.find(root_id, b"0/0.png").unwrap().is_none());
    let first = all.iter().find(|r| r.image.path == b"0/0.png").unwrap();
    let copy = part.find_content(&first.image.hash).unwrap().unwrap();
    assert_eq!(copy.image.path, b"1/copy.png");
    let alone = all.iter().find(|r| r.image.path == b"2/2.png").unwrap();
    assert!(part.find_content(&alone.image.hash).unwrap().is_none());

    // A filter narrows, and never widens.
    let within = |folders| Filter { folders, ..Filter::default() };
    assert_eq!(matching(&part, &within(vec![root.clone()])), usable);
    assert!(matching(&part, &within(vec![root.join("0")])).is_empty());
    assert_eq!(matching(&part, &within(vec![root.join("1/1.png"), root.join("2")])).len(), 1);

    for refused in [
        part.add_root(&bytes_of(&root)).unwrap_err(),
        part.remove_root(root_id).unwrap_err(),
        part.apply(&[]).unwrap_err(),
        part.compact().unwrap_err(),
    ] {
        assert!(matches!(refused, IndexError::ReadOnly { .. }), "{refused}");
    }

    // Images that come later are seen by the same rule.
    put(&photos, "1/new.png", 500);
    put(&photos, "2/new.png", 501);
    let encoder = Colors::default();
    let writer = Embedded::write(&folder, &encoder.identity()).unwrap();
    update_all(&writer, &encoder);
    assert_eq!((part.info().unwrap().images, matching(&part, &Filter::default()).len()), (5, 5));
    let everything = Within::new(read(), vec![root]);
    assert_eq!(everything.info().unwrap().images, writer.info().unwrap().images);
    assert_eq!(matching(&everything, &Filter::default()), matching(&writer, &Filter::default()));
    let nothing = Within::new(read(), vec![dir.path().join("other")]);
    assert_eq!(nothing.info().unwrap().images, 0);
    assert!(matching(&nothing, &Filter::default()).is_empty());
    assert_eq!(nothing.roots().unwrap(), []);
}
