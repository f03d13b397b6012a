//! The queues of a checkpoint.

use crate::error::{Result, WeightsError};
use crate::tensor::{HostTensor, StateDict};

/// The queues as a checkpoint has them.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueTensors {
    /// Image features `[E, Q]` in row-major order.
    pub image: Vec<f32>,
    /// Text features `[E, Q]` in row-major order.
    pub text: Vec<f32>,
    /// The image ids of the entries, `[Q]`, where the checkpoint has them.
    pub ids: Option<Vec<i64>>,
    /// Place of the next entry, below `Q`.
    pub ptr: usize,
    /// Number of entries `Q`.
    pub size: usize,
}

const NAMES: [&str; 4] = ["image_queue", "text_queue", "queue_ptr", "idx_queue"];

fn wrong(key: &str, found: &str, expected: &str) -> WeightsError {
    WeightsError::Keys(format!(
        "`{key}` is {found}; expected is {expected}. hint: take the four queues ({}) out of the \
         checkpoint to start with new ones",
        NAMES.map(|n| format!("`{n}`")).join(", ")
    ))
}

fn needed<'a>(state: &'a StateDict, key: &str) -> Result<&'a HostTensor> {
    let there = NAMES.iter().filter(|n| state.get(n).is_some()).map(|n| format!("`{n}`"));
    state.get(key).ok_or_else(|| {
        let there = there.collect::<Vec<_>>().join(", ");
        wrong(key, "missing", &format!("a tensor, since the checkpoint has {there}"))
    })
}

/// One queue of features; gives its values and `Q`.
fn features(state: &StateDict, key: &str, width: usize) -> Result<(Vec<f32>, usize)> {
    let tensor = needed(state, key)?;
    match tensor.shape[..] {
        [rows, size] if rows == width && size > 0 => Ok((tensor.to_f32()?, size)),
        _ => Err(wrong(key, &format!("{:?}", tensor.shape), &format!("[{width}, queue size]"))),
    }
}

/// The queues of a checkpoint whose joint space has `width` axes; `None` if it has no queue at all.
/// Only a fine-tuned model has `idx_queue`.
///
/// # Errors
/// If one of the other three is missing, or one has another shape or, for `queue_ptr`, a place that
/// does not exist; names the key, what was found and what is expected.
pub fn queue_tensors(state: &StateDict, width: usize) -> Result<Option<QueueTensors>> {
    if NAMES.iter().all(|n| state.get(n).is_none()) {
        return Ok(None);
    }
    let (image, size) = features(state, "image_queue", width)?;
    let (text, texts) = features(state, "text_queue", width)?;
    if texts != size {
        return Err(wrong(
            "text_queue",
            &format!("[{width}, {texts}]"),
            &format!("[{width}, {size}]"),
        ));
    }
    let ids = match state.get("idx_queue") {
        Some(ids) if ids.shape == [1, size] || ids.shape == [size] => Some(ids.to_i64()?),
        Some(ids) => {
            return Err(wrong("idx_queue", &format!("{:?}", ids.shape), &format!("[1, {size}]")));
        }
        None => None,
    };
    let place = needed(state, "queue_ptr")?.to_i64()?;
    let ptr = match place[..] {
        [ptr] => usize::try_from(ptr).ok().filter(|p| *p < size),
        _ => None,
    };
    let ptr = ptr.ok_or_else(|| {
        wrong("queue_ptr", &format!("{place:?}"), &format!("one place from 0 to {}", size - 1))
    })?;
    Ok(Some(QueueTensors { image, text, ids, ptr, size }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> StateDict {
        let features = HostTensor::from_f32(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        StateDict::from_iter([
            ("image_queue".to_owned(), features.clone()),
            ("text_queue".to_owned(), features),
            ("queue_ptr".to_owned(), HostTensor::from_i64(&[1], &[2])),
        ])
    }

    fn with(key: &str, tensor: HostTensor) -> StateDict {
        let mut state = whole();
        state.insert(key.to_owned(), tensor);
        state
    }

    #[test]
    fn whole_queues_are_read_and_none_is_no_error() {
        assert_eq!(queue_tensors(&StateDict::default(), 2).unwrap(), None);
        let queues = queue_tensors(&whole(), 2).unwrap().unwrap();
        assert_eq!((queues.ptr, queues.size, queues.ids), (2, 3, None));
        let ids = with("idx_queue", HostTensor::from_i64(&[1, 3], &[7, 8, -100]));
        assert_eq!(queue_tensors(&ids, 2).unwrap().unwrap().ids, Some(vec![7, 8, -100]));
    }

    #[test]
    fn a_queue_that_is_missing_or_of_another_shape_is_named() {
        for key in ["image_queue", "text_queue", "queue_ptr"] {
            let state = whole().into_iter().filter(|(n, _)| n != key).collect();
            let error = queue_tensors(&state, 2).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{key}` is missing")), "{error}");
        }
        let floats = |shape: &[usize]| HostTensor::from_f32(shape, &[0.0; 6]);
        for (key, tensor, found) in [
            ("image_queue", floats(&[6]), "[6]; expected is [2, queue size]"),
            ("image_queue", floats(&[3, 2]), "[3, 2]; expected is [2, queue size]"),
            ("text_queue", HostTensor::from_f32(&[2, 1], &[0.0; 2]), "[2, 1]; expected is [2, 3]"),
            ("idx_queue", HostTensor::from_i64(&[1, 2], &[1, 2]), "[1, 2]; expected is [1, 3]"),
            ("queue_ptr", HostTensor::from_i64(&[1], &[-1]), "[-1]; expected is one place"),
            ("queue_ptr", HostTensor::from_i64(&[1], &[3]), "[3]; expected is one place"),
            ("queue_ptr", HostTensor::from_i64(&[2], &[0, 1]), "[0, 1]; expected is one place"),
            ("queue_ptr", HostTensor::from_i64(&[0], &[]), "[]; expected is one place"),
        ] {
            let error = queue_tensors(&with(key, tensor), 2).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}` is {found}")), "{error}");
        }
        assert!(queue_tensors(&with("queue_ptr", floats(&[6])), 2).is_err());
    }
}
