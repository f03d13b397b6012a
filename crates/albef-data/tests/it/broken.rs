//! Files as they come from the web: each decodes as Pillow does, or is refused for the right reason.

use std::path::Path;

use albef_data::error::DataError;
use albef_data::image::{DecodeOptions, Gray16, open};
use serde_json::Value;

#[test]
fn odd_files_decode_or_are_refused_for_the_right_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    let expected = std::fs::read_to_string(root.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let options = DecodeOptions { gray16: Gray16::Scale, ..DecodeOptions::default() };
    let mut problems = Vec::new();
    let files = expected["files"].as_object().unwrap();
    for (name, e) in files {
        match (open(&root.join(name), &options), e["expect"].as_str()) {
            (Ok(image), Some("decode")) => {
                let size = [image.width as u64, image.height as u64];
                let wanted: Vec<u64> =
                    e["size"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
                let n = (image.width * image.height) as f64;
                for c in 0..3 {
                    let sum: f64 =
                        image.pixels.iter().skip(c).step_by(3).map(|p| f64::from(*p)).sum();
                    let mean = e["mean_rgb"][c].as_f64().unwrap();
                    if size != wanted[..] || (sum / n - mean).abs() > 1.5 {
                        problems.push(format!("{name}: {size:?}, mean {} not {mean}", sum / n));
                    }
                }
                let (w, h) = (image.width, image.height);
                let (right, bottom) = (w.saturating_sub(5), h.saturating_sub(5));
                for (i, (x, y)) in [(4, 4), (right, 4), (4, bottom), (right, bottom)]
                    .into_iter()
                    .enumerate()
                    .filter(|_| e["corners"].is_array() && name != "gray16.png" && w > 20)
                {
                    let far = (0..3).any(|c| {
                        let want = e["corners"][i][c].as_f64().unwrap();
                        (f64::from(image.at(x, y)[c]) - want).abs() > 12.0
                    });
                    if far && name != "one_bit.png" {
                        problems.push(format!("{name}: corner {i} is {:?}", image.at(x, y)));
                    }
                }
            }
            (Err(_), Some("decode")) if e["optional"].is_string() => {}
            (Err(DataError::Image { error, .. }), Some("reject")) => {
                if Some(error.kind.name()) != e["error"].as_str() {
                    problems.push(format!("{name}: {error}, not {}", e["error"]));
                }
            }
            (got, want) => {
                problems.push(format!("{name}: {got:?}, not {want:?}").chars().take(200).collect())
            }
        }
    }
    assert_eq!(files.len(), 48);
    assert!(problems.is_empty(), "{problems:#?}");
}
