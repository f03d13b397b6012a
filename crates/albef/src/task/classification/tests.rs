use super::figures::auroc;
use super::*;
use crate::params::{cpu, from_vec, to_vec};

fn objective(class_weights: Option<Vec<f32>>) -> LabelsObjective {
    LabelsObjective { class_weights, distill: false, dropout: 0.0, momentum_dropout: 0.0 }
}

fn logits(values: &[f32], classes: usize) -> Tensor<2> {
    let rows = values.len() / classes;
    Tensor::from_inner(from_vec(values.to_vec(), [rows, classes], &cpu()))
}

fn value(loss: Tensor<1>) -> f32 {
    to_vec(loss.inner())[0]
}

#[test]
fn the_weighted_cross_entropy_is_that_of_its_definition() {
    let rows = [[2.0_f32, -1.0, 0.5], [0.0, 0.0, 3.0]];
    let nll =
        |row: [f32; 3], label: usize| row.iter().map(|x| x.exp()).sum::<f32>().ln() - row[label];
    let (a, b) = (nll(rows[0], 1), nll(rows[1], 2));
    let x = || logits(rows.as_flattened(), 3);
    let plain = value(objective(None).single(x(), None, &[1, 2], 0.4).0);
    assert!((plain - (a + b) / 2.0).abs() < 1e-5, "{plain}");
    let weighted = value(objective(Some(vec![1.0, 3.0, 0.5])).single(x(), None, &[1, 2], 0.4).0);
    assert!((weighted - (3.0 * a + 0.5 * b) / 3.5).abs() < 1e-5, "{weighted}");
}

#[test]
fn several_labels_are_binary_decisions_also_for_large_logits() {
    let softplus = |x: f32| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let values = [2.0_f32, -1.0, 90.0, -90.0];
    let weighted = objective(Some(vec![4.0, 1.0]));
    let labels = [vec![0], vec![]];
    let found = value(weighted.several(logits(&values, 2), None, &labels, 0.4));
    let wanted = 4.0 * softplus(-2.0) + softplus(-1.0) + softplus(90.0) + softplus(-90.0);
    assert!((found - wanted / 4.0).abs() < 1e-4, "{found}");
}

#[test]
fn pseudo_targets_take_their_part_of_the_labels() {
    let (x, t) = ([2.0_f32, -1.0, 0.5, 0.3, 0.0, 3.0], [0.5_f32, 1.0, -2.0, 4.0, 0.0, 0.0]);
    let teacher = || Some(logits(&t, 3).inner());
    let weighted = objective(Some(vec![1.0, 3.0, 0.5]));
    let softmax = |row: &[f32]| -> Vec<f32> {
        let sum: f32 = row.iter().map(|x| x.exp()).sum();
        row.iter().map(|x| x.exp() / sum).collect()
    };
    let (labels, alpha) = ([1, 2], 0.3);
    let row = |i: usize| {
        let (p, q) = (softmax(&x[3 * i..][..3]), softmax(&t[3 * i..][..3]));
        let soft: f32 = p.iter().zip(&q).map(|(p, q)| -q * p.ln()).sum();
        0.7 * -p[labels[i]].ln() + 0.3 * soft
    };
    let (found, metrics) = weighted.single(logits(&x, 3), teacher(), &labels, alpha);
    let (found, wanted) = (value(found), (3.0 * row(0) + 0.5 * row(1)) / 3.5);
    assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
    let parts: Vec<f64> = metrics.iter().map(|(_, value)| *value).collect();
    assert!((0.7 * parts[0] + 0.3 * parts[1] - f64::from(wanted)).abs() < 1e-5, "{metrics:?}");

    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let softplus = |x: f32| x.exp().ln_1p();
    let labels = [vec![0, 2], vec![]];
    let term = |i: usize| {
        let given = f32::from(u8::from(labels[i / 3].contains(&(i % 3))));
        let z = 0.7 * given + 0.3 * sigmoid(t[i]);
        [1.0, 3.0, 0.5][i % 3] * z * softplus(-x[i]) + (1.0 - z) * softplus(x[i])
    };
    let found = value(weighted.several(logits(&x, 3), teacher(), &labels, alpha));
    let wanted = (0..6).map(term).sum::<f32>() / 6.0;
    assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
}

#[test]
fn balanced_weights_undo_frequencies() {
    let sample = |label| Sample {
        location: albef_data::dataset::Location::File("a".into()),
        name: "a".into(),
        captions: vec![String::new()],
        key: "a".into(),
        task: TaskFields { target: Target::Label(label), ..TaskFields::default() },
    };
    let weights = balanced([sample(0), sample(0), sample(0), sample(1)].into_iter());
    assert_eq!(weights, [4.0 / 6.0, 2.0]);
}

#[test]
fn the_area_under_the_curve_counts_ties_half_and_needs_both_kinds() {
    assert_eq!(auroc(vec![(0.1, false), (0.9, true)]), Some(100.0));
    assert_eq!(auroc(vec![(0.9, false), (0.1, true)]), Some(0.0));
    assert_eq!(auroc(vec![(0.5, false), (0.5, true), (0.5, false)]), Some(50.0));
    assert_eq!(auroc(vec![(0.5, true)]), None);
}

#[test]
fn lists_folders_and_tables_give_the_same_labels() {
    let dir = tempfile::tempdir().unwrap();
    let png =
        albef_data::scenes::png(&albef_data::image::RgbImage::filled(4, 4, [9, 9, 9])).unwrap();
    for label in ["cat", "dog"] {
        let folder = dir.path().join("images").join(label);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("1.png"), &png).unwrap();
    }
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let json = write(
        "l.json",
        r#"[{"image": "images/cat/1.png", "label": "cat"},
            {"image": "images/dog/1.png", "text": "a dog", "label": ["dog", "cat"]}]"#,
    );
    let csv =
        write("l.csv", "image,text,label\nimages/cat/1.png,,cat\nimages/dog/1.png,a dog,dog|cat\n");
    let names = |path: &Path| -> Vec<Vec<String>> {
        let samples = read(path, dir.path()).unwrap().samples;
        samples.iter().map(|s| named(s).map(str::to_owned).collect()).collect()
    };
    assert_eq!(names(&json), [vec!["cat"], vec!["dog", "cat"]]);
    assert_eq!(names(&csv), names(&json));
    assert_eq!(names(&dir.path().join("images")), [["cat"], ["dog"]]);
    let bad = write("bad.json", r#"[{"image": "a", "label": 3}]"#);
    let error = read(&bad, dir.path()).unwrap_err().to_string();
    assert!(error.contains("bad.json, entry 0") && error.contains("`label`"), "{error}");
    let two = &read(&json, dir.path()).unwrap().samples[1];
    let labels = ["cat".to_owned(), "dog".to_owned()];
    assert_eq!(indices(two, &labels, true).unwrap(), [1, 0]);
    assert!(indices(two, &labels, false).unwrap_err().contains("multi_label"));
    assert!(indices(two, &labels[..1], true).unwrap_err().contains("`dog`"));
}

#[test]
fn samples_whose_labels_do_not_fit_are_left_out_unless_they_are_most() {
    let dir = tempfile::tempdir().unwrap();
    let entries = |labels: &[&str]| {
        let entries: Vec<Value> =
            labels.iter().map(|l| json!({"image": format!("{l}.png"), "label": l})).collect();
        let path = dir.path().join("list.json");
        std::fs::write(&path, Value::from(entries).to_string()).unwrap();
        read(&path, dir.path()).unwrap()
    };
    let labels = ["cat".to_owned(), "dog".to_owned()];
    let some = entries(&["cat", "", "dog", "cat|dog", "dog", "cat|cat"]);
    let (kept, places) = fitting(some.clone(), &labels, false).unwrap();
    assert_eq!(places, [[0], [1], [1], [0]]);
    assert_eq!((kept.samples.len(), kept.left_out.len()), (4, 2));
    assert!(kept.left_out[0].error.detail.contains("it has 0 labels"), "{:?}", kept.left_out);
    assert_eq!(fitting(some, &labels, true).unwrap().1.len(), 6);
    let error = fitting(entries(&["cat", "cow", "hen"]), &labels, false).unwrap_err().to_string();
    assert!(error.contains("2 of 3 samples") && error.contains("`cow`"), "{error}");
}

#[cfg(unix)]
#[test]
fn hidden_folders_and_links_back_are_no_labels() {
    let dir = tempfile::tempdir().unwrap();
    let png =
        albef_data::scenes::png(&albef_data::image::RgbImage::filled(4, 4, [9, 9, 9])).unwrap();
    for label in ["cat", "dog", ".cache"] {
        std::fs::create_dir(dir.path().join(label)).unwrap();
        std::fs::write(dir.path().join(label).join("1.png"), &png).unwrap();
    }
    std::os::unix::fs::symlink(".", dir.path().join("self")).unwrap();
    std::os::unix::fs::symlink("cat", dir.path().join("kitten")).unwrap();
    let found = read(dir.path(), Path::new("")).unwrap();
    let names: Vec<&str> = found.samples.iter().flat_map(named).collect();
    assert_eq!(names, ["cat", "dog"]);
    let left_out: Vec<&str> = found.left_out.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(left_out, ["kitten", "self"]);
}
