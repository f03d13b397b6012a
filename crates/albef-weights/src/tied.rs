//! The vocabulary head, whose last matrix is the word table and whose bias is listed under two names.

use crate::tensor::{HostTensor, StateDict};

/// The tensor that a key of the vocabulary head repeats.
pub(crate) fn original(name: &str) -> Option<String> {
    let part = |alias: &str| {
        let part = name.strip_suffix(alias)?;
        (part.is_empty() || part.ends_with('.')).then_some(part)
    };
    if let Some(part) = part("cls.predictions.decoder.weight") {
        return Some(format!("{part}bert.embeddings.word_embeddings.weight"));
    }
    part("cls.predictions.decoder.bias").map(|part| format!("{part}cls.predictions.bias"))
}

/// Lists tensors under their own names that a file has under those of the head alone.
pub(crate) fn with_originals(state: &mut StateDict) {
    let found: Vec<(String, String)> =
        state.names().filter_map(|n| Some((n.to_owned(), original(n)?))).collect();
    for (alias, name) in found {
        if state.get(&name).is_none()
            && let Some(tensor) = state.get(&alias).cloned()
        {
            state.insert(name, tensor);
        }
    }
}

/// The keys of the head below `part` that differ from the tensor with which they are tied in ALBEF, each with
/// the name of that tensor.
pub(crate) fn untied(state: &StateDict, part: &str) -> Vec<(String, String)> {
    let of_part = state.iter().filter(|(name, _)| name.starts_with(part));
    let differs = |(name, tensor): (&str, &HostTensor)| {
        let tied = original(name)?;
        let same = state.get(&tied).is_none_or(|t| t.same_values(tensor));
        (!same).then(|| (name.to_owned(), tied))
    };
    of_part.filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    const TABLE: &str = "text_encoder.bert.embeddings.word_embeddings.weight";
    const DECODER: &str = "text_encoder.cls.predictions.decoder.weight";

    #[test]
    fn a_head_that_is_not_tied_is_found_and_one_of_equal_values_is_tied() {
        let of = |decoder: HostTensor| {
            StateDict::from_iter([
                (TABLE.to_owned(), HostTensor::from_f32(&[2], &[1.0, 2.0])),
                (DECODER.to_owned(), decoder),
            ])
        };
        let untied = |decoder| untied(&of(decoder), "text_encoder.");
        let half = HostTensor {
            dtype: DType::F16,
            shape: vec![2],
            bytes: vec![0x00, 0x3c, 0x00, 0x40].into(),
        };
        assert_eq!(untied(HostTensor::from_f32(&[2], &[1.0, 2.0])), []);
        assert_eq!(untied(half), []);
        let other = untied(HostTensor::from_f32(&[2], &[1.0, 2.5]));
        assert_eq!(other, [(DECODER.to_owned(), TABLE.to_owned())]);
    }

    #[test]
    fn tensors_that_a_file_has_under_the_names_of_the_head_alone_are_found() {
        let one = || HostTensor::from_f32(&[1], &[1.0]);
        for (alias, name) in [
            (DECODER, TABLE),
            ("cls.predictions.decoder.bias", "cls.predictions.bias"),
            ("text_decoder.cls.predictions.decoder.bias", "text_decoder.cls.predictions.bias"),
        ] {
            let mut state = StateDict::from_iter([(alias.to_owned(), one())]);
            with_originals(&mut state);
            assert_eq!(state.get(name), Some(&one()));
        }
    }
}
