//! A data root in the official layout and formats, with a few generated images.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use albef_data::image::RgbImage;
use albef_data::scenes::png;
use serde_json::{Value, json};

/// Images of each folder.
pub const IMAGES: usize = 12;

/// Width and height of the images.
pub const SIZE: (usize, usize) = (24, 20);

const COLOURS: [&str; 3] = ["red", "green", "blue"];

fn write(root: &Path, name: &str, value: &Value) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, value.to_string()).unwrap();
}

/// Images `FOLDER/N.EXTENSION`; half red and half blue or green, so that regions differ.
fn images(root: &Path, folder: &str, name: impl Fn(usize) -> String) {
    for i in 0..IMAGES {
        let path = root.join(folder).join(name(i));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let rgb = [[200, 30, 30], [30, 160, 60], [40, 60, 200]][i % 3];
        let mut image = RgbImage::filled(SIZE.0, SIZE.1, rgb);
        for (at, pixel) in image.pixels.chunks_mut(3).enumerate() {
            if at % SIZE.0 < SIZE.0 / 2 {
                pixel.copy_from_slice(&[90, (at % 200) as u8, i as u8]);
            }
        }
        fs::write(path, png(&image).unwrap()).unwrap();
    }
}

fn list(entry: impl Fn(usize) -> Value) -> Value {
    (0..IMAGES).map(entry).collect()
}

/// Captions for retrieval: training lists with one caption an entry, the others with several.
fn captions(root: &Path, set: &str, image_name: impl Fn(usize) -> String) {
    let text = |i: usize| format!("a {} square", COLOURS[i % 3]);
    let train = list(
        |i| json!({"image": image_name(i), "caption": text(i), "image_id": format!("{set}_{i}")}),
    );
    write(root, &format!("data/{set}_train.json"), &train);
    let several =
        list(|i| json!({"image": image_name(i), "caption": [text(i), format!("number {i}")]}));
    for split in ["val", "test"] {
        write(root, &format!("data/{set}_{split}.json"), &several);
    }
}

/// The lists of all tasks below `root/data` and their images below `root/images`.
pub fn write_root(root: &Path) {
    images(root, "images/flickr30k", |i| format!("flickr30k-images/{i}.jpg"));
    images(root, "images/coco", |i| format!("val2014/{i}.jpg"));
    images(root, "images/vg", |i| format!("image/{i}.jpg"));
    images(root, "images/nlvr2", |i| format!("dev/{i}.png"));
    images(root, "images/snli-ve", |i| format!("{i}.jpg"));
    captions(root, "flickr30k", |i| format!("flickr30k-images/{i}.jpg"));
    captions(root, "coco", |i| format!("val2014/{i}.jpg"));
    vqa(root);
    classes(root);
    refcoco(root);
    let own = |i: usize| json!({"image": format!("coco/val2014/{i}.jpg"), "caption": "a square"});
    for name in ["coco", "vg", "sbu", "cc3m_train", "cc3m_val", "cc12m"] {
        write(root, &format!("data/{name}.json"), &list(own));
    }
}

fn vqa(root: &Path) {
    let ten = |i: usize| -> Vec<&str> {
        (0..10).map(|j| if j < 8 { COLOURS[i % 3] } else { "gray" }).collect()
    };
    let asked = |i: usize| {
        json!({"dataset": "vqa", "image": format!("val2014/{i}.jpg"), "question_id": i,
               "question": "What colour is it?"})
    };
    let answered = |i: usize| {
        let mut entry = asked(i);
        entry["answer"] = json!(ten(i));
        entry
    };
    write(root, "data/vqa_train.json", &list(answered));
    write(root, "data/vqa_val.json", &list(answered));
    write(root, "data/vqa_test.json", &list(asked));
    let vg = |i: usize| {
        json!({"dataset": "vg", "image": format!("image/{i}.jpg"), "question": "What is it?",
               "answer": "a square"})
    };
    write(root, "data/vg_qa.json", &list(vg));
    write(root, "data/answer_list.json", &json!(["red", "green", "blue", "gray", "a square"]));
    let official = |i: usize| {
        let answers: Vec<Value> = ten(i)
            .iter()
            .enumerate()
            .map(|(n, a)| json!({"answer_id": n + 1, "answer": a}))
            .collect();
        json!({"question_id": i, "image_id": i, "question_type": "what color",
               "answer_type": "other", "answers": answers})
    };
    write(root, "data/v2_annotations.json", &json!({"annotations": list(official)}));
    let question = |i: usize| json!({"question_id": i, "image_id": i, "question": "What colour?"});
    write(root, "data/v2_questions.json", &json!({"questions": list(question)}));
}

fn classes(root: &Path) {
    for split in ["train", "dev", "test"] {
        let statement = |i: usize| {
            json!({"images": [format!("dev/{i}.png"), format!("dev/{}.png", (i + 1) % IMAGES)],
                   "sentence": "both are squares", "label": if i.is_multiple_of(2) { "True" } else { "False" }})
        };
        write(root, &format!("data/nlvr_{split}.json"), &list(statement));
        let labels = ["entailment", "neutral", "contradiction"];
        let sentence = |i: usize| json!({"image": i.to_string(), "sentence": "a square", "label": labels[i % 3]});
        write(root, &format!("data/ve_{split}.json"), &list(sentence));
    }
}

/// Expressions of all splits; proposals are the two halves of each image_name.
fn refcoco(root: &Path) {
    let split = |i: usize| ["train", "val", "testA", "testB"][i % 4];
    let mut pickle = String::from("(lp0\n");
    for i in 0..IMAGES {
        writeln!(
            pickle,
            "(dS'ref_id'\nI{}\nsS'ann_id'\nI{}\nsS'image_id'\nI{i}\nsS'split'\nS'{}'\nsa",
            100 + i,
            1000 + i,
            split(i)
        )
        .unwrap();
        pickle.pop();
    }
    pickle.push('.');
    let (w, h) = SIZE;
    let images: Vec<Value> =
        (0..IMAGES).map(|i| json!({"id": i, "height": h, "width": w})).collect();
    let annotations: Vec<Value> = (0..IMAGES)
        .map(|i| json!({"id": 1000 + i, "bbox": [(w / 2) * (i % 2), 0, w / 2, h]}))
        .collect();
    let halves = json!([[0, 0, w / 2, h, 0.9], [w / 2, 0, w / 2, h, 0.8]]);
    let proposals: serde_json::Map<String, Value> =
        (0..IMAGES).map(|i| (i.to_string(), halves.clone())).collect();
    write(
        root,
        "data/refcoco+/instances.json",
        &json!({"images": images, "annotations": annotations}),
    );
    fs::write(root.join("data/refcoco+/refs(unc).p"), pickle).unwrap();
    write(root, "data/refcoco+/dets.json", &Value::Object(proposals));
    let entry = |i: usize| {
        json!({"image": format!("val2014/{i}.jpg"), "text": format!("the {} side", COLOURS[i % 3]),
               "ref_id": 100 + i})
    };
    let of = |wanted: &[&str]| -> Value {
        (0..IMAGES).filter(|i| wanted.contains(&split(*i))).map(entry).collect()
    };
    write(root, "data/refcoco+_train.json", &list(entry));
    write(root, "data/refcoco+_val.json", &of(&["val"]));
    write(root, "data/refcoco+_test.json", &of(&["testA", "testB"]));
}
